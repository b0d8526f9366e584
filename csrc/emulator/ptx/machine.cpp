// A launch: limits, CTAs coming and going, the random scheduler, reports, counts.
#include "emulator/ptx/machine.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "emulator/ptx/limits.h"

namespace gptoss::emulator {
namespace {

constexpr int kLongestQuantum = 64;
// Order of CTAs is shuffled up to this many; more start in order.
constexpr uint64_t kMostShuffledCtas = 1u << 20;

uint64_t mix(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return x ^ x >> 31;
}

Dim3 unravel(uint64_t number, const Dim3& grid) {
  return {static_cast<uint32_t>(number % grid.x), static_cast<uint32_t>(number / grid.x % grid.y),
          static_cast<uint32_t>(number / grid.x / grid.y)};
}

}  // namespace

bool LaunchResult::has_errors() const {
  return fault != Fault::kNone || std::any_of(reports.begin(), reports.end(), [](const Report& r) {
           return !is_warning(r.report_class);
         });
}

Launch::Launch(Memory& device_memory, const Kernel& run_kernel,
               const std::vector<uint8_t>& parameter_block, const LaunchOptions& launch_options)
    : memory(device_memory),
      kernel(run_kernel),
      parameters(parameter_block),
      options(launch_options),
      counters(result.counters),
      executions(run_kernel.code.size(), 0),
      warp_executions(run_kernel.code.size(), 0),
      random_state_(mix(launch_options.seed + 1)) {}

uint64_t Launch::random() {  // xorshift64*
  random_state_ ^= random_state_ >> 12;
  random_state_ ^= random_state_ << 25;
  random_state_ ^= random_state_ >> 27;
  return (random_state_ * 0x2545f4914f6cdd1dull) >> 32;
}

Launch::TensorBehaviour Launch::tensor_behaviour(uint32_t shape) const {
  const uint64_t h = mix(options.tensor_seed.value_or(options.seed) * 0x100000001b3ull + shape);
  return {2 << (h % 4), static_cast<int>(h >> 8 & 3), (h >> 16 & 1) != 0};
}

// ---- reports ----

AccessSite Launch::site(const Warp& warp, int pc, int lane, std::string what) const {
  AccessSite out;
  out.known = true;
  out.what = std::move(what);
  out.cta = warp.cta->id;
  out.warp = warp.index;
  out.lane = lane;
  if (pc >= 0 && pc < static_cast<int>(kernel.text.size())) {
    const InstructionText& text = kernel.text[pc];
    out.text = text.text;
    out.ptx_line = text.position.line;
    out.source_line = text.position.source_line;
    if (kernel.files) {
      const auto file = kernel.files->find(text.position.file);
      if (file != kernel.files->end()) out.file = file->second;
    }
  }
  return out;
}

AccessSite Launch::past_site(uint32_t slot, uint32_t clock, int pc, int lane,
                             std::string what) const {
  const Warp& any = resident_.front()->warps.front();
  AccessSite out = site(any, pc, lane, std::move(what));
  const Occupant* found = &occupants_[slot].front();
  for (const Occupant& occupant : occupants_[slot])
    if (occupant.first_clock <= clock) found = &occupant;
  out.cta = found->cta;
  out.warp = found->warp;
  return out;
}

void Launch::report(ReportClass report_class, const AccessSite& access, const AccessSite& other,
                    std::string message) {
  const bool is_check = report_class >= ReportClass::kUninitialisedAddress &&
                        report_class <= ReportClass::kUninitialisedOperand;
  if (is_check && !options.check_uninitialised) return;
  const uint64_t key =
      mix(mix(static_cast<uint64_t>(report_class) << 32 | static_cast<uint32_t>(access.ptx_line)) +
          static_cast<uint32_t>(other.ptx_line));
  if (const auto found = seen_reports_.find(key); found != seen_reports_.end()) {
    if (found->second < result.reports.size()) ++result.reports[found->second].times;
    return;
  }
  seen_reports_[key] = result.reports.size();
  if (result.reports.size() >= options.max_reports) return;
  Report report;
  report.report_class = report_class;
  report.kernel = kernel.name;
  report.message = std::move(message);
  report.access = access;
  report.other = other;
  report.seed = options.seed;
  result.reports.push_back(std::move(report));
}

void Launch::report(ReportClass report_class, const Warp& warp, int lane, std::string message,
                    std::string what) {
  report(report_class, site(warp, warp.pc, lane, std::move(what)), AccessSite{},
         std::move(message));
}

// ---- limits ----

bool Launch::fits() {
  const LaunchLimits limits = check_limits(kernel, options);
  if (limits.fault != Fault::kNone) {
    Report report;
    report.report_class = ReportClass::kLaunchLimit;
    report.kernel = kernel.name;
    report.message = limits.message;
    report.seed = options.seed;
    result.reports.push_back(std::move(report));
    result.fault = limits.fault;
    return false;
  }
  warps_per_cta = limits.warps_per_block;
  uint64_t capacity = limits.blocks_at_once;
  if (!options.cooperative)
    capacity =
        std::min<uint64_t>(capacity, std::max(1u, options.max_resident_warps / warps_per_cta));
  capacity_ = static_cast<uint32_t>(std::min<uint64_t>(capacity, options.grid.count()));
  return true;
}

// ---- CTAs ----

void Launch::start_cta(uint64_t number, uint32_t cta_slot) {
  std::unique_ptr<Cta>& place = resident_[cta_slot];
  const uint32_t first_slot = cta_slot * warps_per_cta;
  if (!place) {
    place = std::make_unique<Cta>();
    place->warps.resize(warps_per_cta);
    place->register_file.resize(register_image_.size() * warps_per_cta + 64);
    place->definedness.resize(size_t{2} * kernel.register_count() * warps_per_cta);
  }
  Cta& cta = *place;
  cta.launch = this;
  cta.number = number;
  cta.id = unravel(number, options.grid);
  cta.first_slot = first_slot;
  const size_t shared_end = kernel.dynamic_shared_begin + options.dynamic_shared_bytes;
  cta.shared.assign(shared_end + 16, kPoison);
  cta.shared_state.assign(shared_end + 16, 0);
  cta.shadow.resize(shared_end + 16);
  cta.shadow.begin_launch(++started_);
  cta.released.clear();
  for (Barrier& barrier : cta.barriers) barrier = Barrier{};

  const Dim3& block = options.block;
  const uint32_t threads = static_cast<uint32_t>(block.count());
  // Registers of a warp begin on a cache line.
  auto* file = reinterpret_cast<std::byte*>(
      (reinterpret_cast<uintptr_t>(cta.register_file.data()) + 63) & ~uintptr_t{63});
  bool has_async = false;
  for (const Instruction& in : kernel.code) has_async = has_async || in.pipe == Pipe::kAsync;
  for (uint32_t w = 0; w < warps_per_cta; ++w) {
    Warp& warp = cta.warps[w];
    warp = Warp{};
    warp.launch = this;
    warp.cta = &cta;
    warp.kernel = &kernel;
    warp.index = static_cast<int>(w);
    warp.slot = first_slot + w;
    warp.registers = file + register_image_.size() * w;
    warp.defined = cta.definedness.data() + size_t{2} * kernel.register_count() * w;
    warp.origin = warp.defined + kernel.register_count();
    std::memcpy(warp.registers, register_image_.data(), register_image_.size());
    std::memcpy(warp.defined, defined_image_.data(), defined_image_.size() * 4);
    std::fill_n(warp.origin, kernel.register_count(), 0u);
    const uint32_t lanes = std::min(threads - w * kLanes, uint32_t{kLanes});
    warp.live = warp.active = lanes == kLanes ? kAllLanes : (1u << lanes) - 1;
    warp.local.assign(size_t{kernel.local_bytes} * kLanes, kPoison);
    warp.local_written.assign(kernel.local_bytes, 0);
    if (has_async) warp.async = std::make_unique<AsyncGroups[]>(kLanes);
    warp.clock = next_clock_[warp.slot];
    warp.seen.shared() = VectorClock(next_clock_.size());
    slot_begin[warp.slot] = warp.clock;
    occupants_[warp.slot].push_back({warp.clock, cta.id, warp.index});

    for (const Kernel::Special& special : kernel.specials) {
      uint32_t* out = warp.reg<uint32_t>(special.reg);
      for (uint32_t l = 0; l < kLanes; ++l) {
        const uint32_t thread = w * kLanes + l;
        uint32_t value = 0;
        using enum SpecialRegister;
        switch (special.which) {
          case kTidX:
            value = thread % block.x;
            break;
          case kTidY:
            value = thread / block.x % block.y;
            break;
          case kTidZ:
            value = thread / block.x / block.y;
            break;
          case kNtidX:
            value = block.x;
            break;
          case kNtidY:
            value = block.y;
            break;
          case kNtidZ:
            value = block.z;
            break;
          case kCtaidX:
            value = cta.id.x;
            break;
          case kCtaidY:
            value = cta.id.y;
            break;
          case kCtaidZ:
            value = cta.id.z;
            break;
          case kNctaidX:
            value = options.grid.x;
            break;
          case kNctaidY:
            value = options.grid.y;
            break;
          case kNctaidZ:
            value = options.grid.z;
            break;
          case kLaneid:
            value = l;
            break;
          case kWarpid:
            value = w;
            break;
          case kNwarpid:
            value = warps_per_cta;
            break;
          case kSmid:
            value = cta_slot % simulated_multiprocessors(options);
            break;
          case kNsmid:
            value = simulated_multiprocessors(options);
            break;
          case kLanemaskEq:
            value = 1u << l;
            break;
          case kLanemaskLt:
            value = (1u << l) - 1;
            break;
          case kLanemaskLe:
            value = static_cast<uint32_t>((2ull << l) - 1);
            break;
          case kLanemaskGt:
            value = ~static_cast<uint32_t>((2ull << l) - 1);
            break;
          case kLanemaskGe:
            value = ~((1u << l) - 1);
            break;
          case kDynamicSmemSize:
            value = options.dynamic_shared_bytes;
            break;
          case kTotalSmemSize:
            value = kernel.static_shared_bytes + options.dynamic_shared_bytes;
            break;
          case kEnvreg1:
            value = static_cast<uint32_t>(workspace_ >> 32);
            break;
          case kEnvreg2:
            value = static_cast<uint32_t>(workspace_);
            break;
          case kClock:
          case kClock64:
          case kGlobaltimer:
            value = 0;
            break;
        }
        out[l] = value;
      }
      warp.defined[special.reg] = kAllLanes;
    }
  }
  ++counters.ctas;
}

void Launch::run_ctas() {
  const uint64_t total = options.grid.count();
  std::vector<uint32_t> order;
  if (options.seed && total <= kMostShuffledCtas) {
    order.resize(total);
    std::iota(order.begin(), order.end(), 0u);
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random() % i]);
  }
  resident_.resize(capacity_);
  slot_begin.assign(size_t{capacity_} * warps_per_cta, 1);
  next_clock_.assign(slot_begin.size(), 1);
  occupants_.resize(slot_begin.size());
  uint64_t next = 0;
  std::vector<uint32_t> free_slots;
  for (uint32_t i = capacity_; i > 0; --i) free_slots.push_back(i - 1);
  std::vector<bool> occupied(capacity_, false);
  std::vector<Warp*> runnable;
  for (;;) {
    while (next < total && !free_slots.empty()) {
      const uint32_t slot = free_slots.back();
      free_slots.pop_back();
      start_cta(order.empty() ? next : order[next], slot);
      occupied[slot] = true;
      ++next;
    }
    runnable.clear();
    bool all_spin = true;
    for (uint32_t i = 0; i < capacity_; ++i) {
      if (!occupied[i]) continue;
      for (Warp& warp : resident_[i]->warps) {
        if (!warp.can_run()) continue;
        runnable.push_back(&warp);
        all_spin = all_spin && warp.is_spinning && warp.spin_progress == progress;
      }
    }
    if (runnable.empty()) {
      if (free_slots.size() == capacity_ && next == total) return;
      stuck();
    }
    if (all_spin) {
      const Warp& warp = *runnable.front();
      const AccessSite other = runnable.size() > 1
                                   ? site(*runnable.back(), runnable.back()->pc,
                                          std::countr_zero(runnable.back()->active), "spins")
                                   : AccessSite{};
      report(ReportClass::kEndlessSpin, site(warp, warp.pc, std::countr_zero(warp.active), "spins"),
             other,
             "every warp that can run repeats a loop in which nothing changes any more (" +
                 std::to_string(capacity_) + " of " + std::to_string(total) +
                 " CTAs are resident at once)");
      throw LaunchFault{Fault::kTimeout};
    }
    Warp& warp = *runnable[random() % runnable.size()];
    const uint64_t before = warp.executed;
    warp.run(1 + static_cast<int>(random() % kLongestQuantum));
    counters.warp_instructions += warp.executed - before;
    if (counters.warp_instructions > options.max_warp_instructions) {
      report(ReportClass::kInstructionLimit, warp, std::countr_zero(warp.active | 1u << 31),
             "more than " + std::to_string(options.max_warp_instructions) +
                 " warp instructions were run");
      throw LaunchFault{Fault::kTimeout};
    }
    if (warp.is_done()) {
      Cta& cta = *warp.cta;
      if (std::all_of(cta.warps.begin(), cta.warps.end(),
                      [](const Warp& w) { return w.is_done(); })) {
        for (const Warp& w : cta.warps) next_clock_[w.slot] = w.clock + 1;
        const uint32_t slot = cta.first_slot / warps_per_cta;
        occupied[slot] = false;
        free_slots.push_back(slot);
      }
    }
  }
}

void Launch::stuck() {
  AccessSite first, second;
  for (const auto& cta : resident_) {
    if (!cta) continue;
    for (const Barrier& barrier : cta->barriers) {
      for (const Barrier::Waiting& w : barrier.waiting) {
        AccessSite& place = first.known ? second : first;
        if (place.known && place.ptx_line != first.ptx_line) continue;
        place = site(*w.warp, w.pc, std::countr_zero(w.lanes), "waits");
      }
    }
  }
  if (second.known && second.ptx_line == first.ptx_line) second = AccessSite{};
  report(ReportClass::kDeadlock, first, second,
         "every warp waits, and nothing is left that could wake one");
  throw LaunchFault{Fault::kTimeout};
}

void Launch::count() {
  for (size_t i = 0; i < kernel.code.size(); ++i) {
    const size_t pipe = static_cast<size_t>(kernel.code[i].pipe);
    counters.thread_instructions += executions[i];
    counters.thread_instructions_by_pipe[pipe] += executions[i];
    counters.warp_instructions_by_pipe[pipe] += warp_executions[i];
  }
}

// What the driver gives a cooperative launch for its grid barrier: a size and a counter, zero.
bool Launch::make_workspace() {
  constexpr uint32_t kWorkspace[16] = {sizeof kWorkspace};
  workspace_ = memory.allocate(sizeof kWorkspace, "grid workspace");
  if (!workspace_ || !memory.write(workspace_, kWorkspace, sizeof kWorkspace)) {
    result.fault = Fault::kOutOfResources;
    return false;
  }
  return true;
}

LaunchResult Launch::run() {
  if (!fits()) return std::move(result);
  if (options.cooperative && !make_workspace()) return std::move(result);
  memory.begin_launch();
  const uint32_t count_of_registers = kernel.register_count();
  register_image_.assign(size_t{count_of_registers} * kRegisterBytes, std::byte{kPoison});
  defined_image_.assign(count_of_registers, 0);
  for (const Kernel::Constant& constant : kernel.constants) {
    auto* out = reinterpret_cast<uint64_t*>(&register_image_[constant.reg * kRegisterBytes]);
    defined_image_[constant.reg] = kAllLanes;
    // The lanes of a register are as far apart as its width.
    switch (constant.bytes) {
      case 0:
        *reinterpret_cast<uint32_t*>(out) = constant.bits & 1 ? kAllLanes : 0;
        break;
      case 1:
        std::memset(out, static_cast<int>(constant.bits), kLanes);
        break;
      case 2:
        std::fill_n(reinterpret_cast<uint16_t*>(out), kLanes, static_cast<uint16_t>(constant.bits));
        break;
      case 4:
        std::fill_n(reinterpret_cast<uint32_t*>(out), kLanes, static_cast<uint32_t>(constant.bits));
        break;
      default:
        std::fill_n(out, kLanes, constant.bits);
        break;
    }
  }
  try {
    run_ctas();
  } catch (const LaunchFault& fault) {
    result.fault = fault.fault;
  }
  count();
  if (workspace_) memory.free(workspace_);
  return std::move(result);
}

LaunchResult launch(Memory& memory, const Kernel& kernel, const std::vector<uint8_t>& parameters,
                    const LaunchOptions& options) {
  return Launch(memory, kernel, parameters, options).run();
}

}  // namespace gptoss::emulator
