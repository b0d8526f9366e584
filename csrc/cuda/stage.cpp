#include "cuda/stage.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string_view>

#include "core/check.h"

namespace gptoss::cuda {
namespace {

// Of gpt-oss-20b one has some 150 kernels; what that takes on a device was not measured.
constexpr int kMostGraphs = 48;
// Prompts and larger batches take longer than their launches, and are seldom twice of one size.
constexpr int kMostGraphTokens = 64;

int most_graphs() {
  const char* const text = std::getenv("GPTOSS_CUDA_GRAPHS");
  return text == nullptr || *text == '\0' ? kMostGraphs : std::atoi(text);
}

// Streams that were left with work that had not ended.
struct LeftStream {
  int ordinal;
  CUstream stream;
};
struct LeftStreams {
  std::mutex mutex;
  std::vector<LeftStream> all;
};
LeftStreams& left_streams() {
  static LeftStreams left;
  return left;
}

// Whether such work is still there: then the driver may wait for it whenever memory is allocated or
// given back in the context. In a Scope.
bool has_left_work_in(const Context& context) {
  LeftStreams& left = left_streams();
  const std::lock_guard<std::mutex> lock(left.mutex);
  return std::ranges::any_of(left.all, [&](const LeftStream& one) {
    return one.ordinal == context.device().ordinal &&
           context.driver().cuStreamQuery(one.stream) == kNotReady;
  });
}

}  // namespace

Card::Card(const DeviceInfo& device) : context_(device) {
  run([&] {
    if (has_left_work_in(context_)) {
      throw BackendError(concat("[cuda] ", device.name,
                                " still has work of a model that was closed, which waits "
                                "for a device that failed: a new process can use it"));
    }
    stream_.emplace(context_);
    module_.emplace(context_, embedded_kernels());
  });
}

DeviceRoom Card::room() const {
  int64_t free = 0;
  run([&] { free = context_.free_memory(); });
  return {name_of(device()), usable_bytes(free, device().memory)};
}

std::optional<std::string> Card::failure() const {
  try {
    run([&] { static_cast<void>(stream_->query()); });
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return std::nullopt;
}

bool Card::has_left_work() const {
  bool is_there = false;
  context_.release([&](const Driver&) { is_there = has_left_work_in(context_); });
  return is_there;
}

void Card::leave(bool has_ended) {
  context_.abandon();
  if (has_ended) return;
  LeftStreams& left = left_streams();
  const std::lock_guard<std::mutex> lock(left.mutex);
  left.all.push_back({device().ordinal, stream_->handle()});
}

bool Card::is_named_in(const std::string& message) const {
  return message.starts_with(concat("[", label_of(device()), "] "));
}

std::string Card::named(const std::string& message) const {
  constexpr std::string_view kPlain = "[cuda] ";
  if (!message.starts_with(kPlain)) return message;
  return concat("[", label_of(device()), "] ", message.substr(kPlain.size()));
}

Stage::Stage(Card& card, const Part& part, const StageOptions& options)
    : card_(card),
      part_(part),
      config_(options.config),
      scheme_(options.scheme),
      limits_(options.limits),
      weight_bytes_(DeviceWeights::allocated_bytes(options.source, scheme_, part)),
      weights_(card.context(), card.stream(), card.module(), options.source, scheme_, part),
      memory_(card.context(), config_, scheme_, part, options.has_int8_inputs, limits_,
              kStepsAhead + 1) {
  const Context& context = card.context();
  for (const KvGroup& group : kv_groups_of(config_, part)) {
    const int64_t n_pages = options.n_pages[page_bytes_.size()];
    page_bytes_.push_back(cuda::page_bytes(config_, scheme_.kv, group));
    pages_.emplace_back(context, std::max<int64_t>(1, n_pages * page_bytes_.back()),
                        "the KV cache");
  }
  const bool has_cpu_experts = options.host_experts != nullptr;
  for (int i = 0; i <= kStepsAhead; ++i) {
    done_.push_back(std::make_unique<Event>(context, has_cpu_experts));
  }
  if (part.is_first() || part.is_last()) {
    stream().clear(memory_.slots.states.address(), memory_.slots.states.size_bytes());
  }
  for (const DeviceMemory* counts :
       {&memory_.work.arrived, &memory_.work.splits_arrived, &memory_.work.down_arrived}) {
    if (counts->size_bytes() > 0) stream().clear(counts->address(), counts->size_bytes());
  }
  const std::vector<float> rotations =
      make_rotations(config_, limits_.max_pages_per_sequence * kPageTokens);
  const std::vector<float> ones(static_cast<size_t>(limits_.max_tokens), 1.0f);
  const Drain drained{stream()};  // before these two go
  stream().upload(memory_.slots.rotations.address(), rotations.data(),
                  static_cast<int64_t>(rotations.size() * sizeof(float)));
  if (part.cpu_experts(scheme_) > 0) {
    stream().upload(memory_.work.ones.address(), ones.data(), memory_.work.ones.size_bytes());
    cpu_experts_.emplace(context, stream(), *options.host_experts, options.turn, config_, scheme_,
                         part, limits_.max_tokens, kStepsAhead + 1);
  }
  stream().wait();
  forward_.emplace(config_, scheme_, part_, weights_, memory_, pages_, module(), stream());
  if (most_graphs() > 0) {
    graphs_.emplace(context, stream(), module(), most_graphs() * forward_->n_segments());
  }
}

CUdeviceptr Stage::page(int group, int32_t index) const {
  const auto g = static_cast<size_t>(group);
  return pages_[g].address() + static_cast<CUdeviceptr>(index * page_bytes_[g]);
}

void Stage::upload_tables(int flight, const BlockTables& tables,
                          std::span<const BlockTables::Range> ranges) {
  const FlightMemory& memory = this->flight(flight);
  for (const BlockTables::Range& range : ranges) {
    const auto g = static_cast<size_t>(range.group);
    const int64_t row = int64_t{range.slot} * tables.row_pages(range.group);
    const int64_t offset = (row + range.begin) * int64_t{sizeof(int32_t)};
    const int64_t bytes = (range.end - range.begin) * int64_t{sizeof(int32_t)};
    check(offset + bytes <= memory_.slots.tables[g].size_bytes(),
          "[cuda] rows of a block table are longer than planned: ", tables.row_pages(range.group),
          " pages");
    const auto entries = tables.row(range.group, range.slot)
                             .subspan(static_cast<size_t>(range.begin),
                                      static_cast<size_t>(range.end - range.begin));
    uint8_t* const staged = memory.host_tables[g].data() + offset;
    std::memcpy(staged, entries.data(), entries.size_bytes());
    stream().upload(memory_.slots.tables[g].address() + static_cast<CUdeviceptr>(offset), staged,
                    bytes);
  }
}

Step Stage::upload(int flight, const StepInput& input) {
  const FlightMemory& memory = this->flight(flight);
  const int n_tokens = static_cast<int>(input.tokens.size());
  const int n_sequences = static_cast<int>(input.slots.size());
  const int n_logit_rows = static_cast<int>(input.logit_rows.size());
  check(n_tokens <= limits_.max_tokens && n_sequences <= limits_.max_sequences &&
            n_logit_rows <= limits_.max_logit_rows,
        "[cuda] a step has at most ", limits_.max_tokens, " tokens, ", limits_.max_sequences,
        " sequences and ", limits_.max_logit_rows, " rows of logits, got ", n_tokens, ", ",
        n_sequences, " and ", n_logit_rows);
  const InputLayout layout(n_tokens, n_sequences, n_logit_rows);
  uint8_t* const host = memory.host_input.data();
  const auto ints = [&](int64_t offset) { return reinterpret_cast<int32_t*>(host + offset); };
  std::ranges::copy(input.tokens, ints(0));
  std::ranges::copy(input.sequence_offsets, ints(layout.sequence_offsets));
  std::ranges::copy(input.first_positions, ints(layout.first_positions));
  std::ranges::copy(input.slots, ints(layout.sequence_slots));
  std::ranges::copy(input.logit_rows, ints(layout.logit_rows));
  for (size_t s = 0; s < input.slots.size(); ++s) {
    for (int t = input.sequence_offsets[s]; t < input.sequence_offsets[s + 1]; ++t) {
      ints(layout.positions)[t] = input.first_positions[s] + t - input.sequence_offsets[s];
      ints(layout.token_slots)[t] = input.slots[s];
    }
  }
  stream().upload(memory.input.address(), host, layout.bytes);
  const auto device = [&](int64_t offset) { return memory.input.as<const int32_t>(offset); };
  return {.tokens = device(0),
          .positions = device(layout.positions),
          .token_slots = device(layout.token_slots),
          .sequence_offsets = device(layout.sequence_offsets),
          .first_positions = device(layout.first_positions),
          .sequence_slots = device(layout.sequence_slots),
          .logit_rows = device(layout.logit_rows),
          .slots = memory_.slots.states.as<const SlotState>(),
          .n_tokens = n_tokens,
          .n_sequences = n_sequences,
          .n_logit_rows = n_logit_rows};
}

void Stage::run(int flight, const Step& step, const StepInput& input, std::span<Kept> kept) {
  int highest_position = 0;
  for (size_t s = 0; s < input.slots.size(); ++s) {
    highest_position =
        std::max(highest_position, input.first_positions[s] + input.sequence_offsets[s + 1] -
                                       input.sequence_offsets[s] - 1);
  }
  StepShape shape = {.segment = 0,
                     .flight = flight,
                     .n_tokens = step.n_tokens,
                     .n_sequences = step.n_sequences,
                     .n_logit_rows = step.n_logit_rows,
                     .n_splits = forward_->count_splits(step.n_tokens, highest_position),
                     .row_pages = {}};
  for (int group = 0; group < input.tables->n_groups(); ++group) {
    shape.row_pages[static_cast<size_t>(group)] = input.tables->row_pages(group);
  }
  const Inspection inspection = {
      .kept = kept, .steers = input.steers, .sequence_offsets = input.sequence_offsets};
  const bool is_graph = graphs_ && step.n_tokens <= kMostGraphTokens && inspection.is_empty();
  if (cpu_experts_) cpu_experts_->begin(flight, step.n_tokens);
  for (; shape.segment < forward_->n_segments(); ++shape.segment) {
    if (shape.segment > 0) cpu_experts_->queue(flight, shape.segment - 1, memory_.work);
    if (is_graph) {
      graphs_->run(shape, [&] { queue_segment(step, shape, inspection); });
    } else {
      queue_segment(step, shape, inspection);
    }
  }
}

void Stage::queue_segment(const Step& step, const StepShape& shape, const Inspection& inspection) {
  forward_->run(step, shape.row_pages, shape.n_splits, shape.segment, inspection);
  if (!part_.is_last() || shape.segment + 1 < forward_->n_segments()) return;
  module().run(stream(), FiniteArgs{.step = step,
                                    .x = memory_.work.x.as<const float>(),
                                    .finite = flight(shape.flight).finite.as<int32_t>(),
                                    .hidden = config_.hidden_size});
}

void Stage::hand_over(const Stage& next, int flight_before, int n_tokens) {
  stream().after(next.done(flight_before));
  stream().send(next.card_.context(), next.memory_.work.x.address(), memory_.work.x.address(),
                int64_t{n_tokens} * config_.hidden_size * int64_t{sizeof(float)});
}

void Stage::rethrow(int flight) {
  if (cpu_experts_) cpu_experts_->rethrow(flight);
}

}  // namespace gptoss::cuda
