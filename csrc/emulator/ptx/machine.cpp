// A grid: limits, CTAs coming and going, reports, counts.
#include "emulator/ptx/machine.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "emulator/ptx/limits.h"

namespace gptoss::emulator {
namespace {

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

AccessSite instruction_site(const Kernel& kernel, int pc) {
  AccessSite out;
  out.known = true;
  if (pc < 0 || pc >= static_cast<int>(kernel.text.size())) return out;
  const InstructionText& text = kernel.text[static_cast<size_t>(pc)];
  out.text = text.text;
  out.ptx_line = text.position.line;
  out.source_line = text.position.source_line;
  if (kernel.files) {
    const auto file = kernel.files->find(text.position.file);
    if (file != kernel.files->end()) out.file = file->second;
  }
  return out;
}

}  // namespace

bool LaunchResult::has_errors() const {
  return fault != Fault::kNone || std::any_of(reports.begin(), reports.end(), [](const Report& r) {
           return !is_warning(r.report_class);
         });
}

Launch::Launch(Chain& of_chain, size_t index_in_chain, const LaunchRequest& request)
    : chain(of_chain),
      index(index_in_chain),
      memory(of_chain.memory),
      kernel(*request.kernel),
      parameters(*request.parameters),
      options(request.options),
      counters(result.counters),
      executions(kernel.code.size(), 0),
      warp_executions(kernel.code.size(), 0),
      progress(of_chain.progress),
      request_(request) {}

uint64_t Launch::random() { return chain.random(); }

Launch::TensorBehaviour Launch::tensor_behaviour(uint32_t shape) const {
  const uint64_t h = mix(options.tensor_seed.value_or(options.seed) * 0x100000001b3ull + shape);
  return {2 << (h % 4), static_cast<int>(h >> 8 & 3), (h >> 16 & 1) != 0};
}

// ---- reports ----

AccessSite Launch::site(const Warp& warp, int pc, int lane, std::string what) const {
  AccessSite out = instruction_site(kernel, pc);
  out.what = std::move(what);
  out.cta = warp.cta->id;
  out.warp = warp.index;
  out.lane = lane;
  return out;
}

AccessSite Launch::past_site(uint32_t slot, uint32_t clock, int pc, int lane,
                             std::string what) const {
  const Occupant& by = occupant(slot, clock);
  AccessSite out = instruction_site(by.launch->kernel, pc);
  out.what = std::move(what);
  out.cta = by.cta;
  out.warp = by.warp == Occupant::kAgentOfWarps ? lane : by.warp;
  out.lane = by.warp == Occupant::kAgentOfWarps ? -1 : lane;
  if (by.launch != this) out.kernel = by.launch->kernel.name;
  return out;
}

bool Launch::is_of_other_grid(uint32_t slot, uint32_t clock) const {
  return occupant(slot, clock).launch != this;
}

const Occupant& Launch::occupant(uint32_t slot, uint32_t clock) const {
  const Occupant* found = &chain.occupants_[slot].front();
  for (const Occupant& each : chain.occupants_[slot])
    if (each.first_clock <= clock) found = &each;
  return *found;
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
  const uint32_t first_slot = first_slot_ + cta_slot * warps_per_cta;
  if (!place) {
    place = std::make_unique<Cta>();
    place->warps.resize(warps_per_cta);
    place->register_file.resize(register_image_.size() * warps_per_cta + 64);
    place->definedness.resize(size_t{2} * kernel.register_count() * warps_per_cta);
  }
  Cta& cta = *place;
  cta.launch = this;
  cta.number = (uint64_t{index} << 48) + number;
  cta.launched_dependents = false;
  cta.id = unravel(number, options.grid);
  cta.first_slot = first_slot;
  const size_t shared_end = kernel.dynamic_shared_begin + options.dynamic_shared_bytes;
  cta.shared.assign(shared_end + 16, kPoison);
  cta.shared_state.assign(shared_end + 16, 0);
  cta.shadow.resize(shared_end + 16);
  cta.shadow.begin_launch(++started_);
  cta.released.clear();
  for (Barrier& barrier : cta.barriers) barrier = Barrier{};
  cta.mbarriers.clear();
  cta.agents_in_use = 0;

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
    if (kernel.uses_async_proxy) warp.bulk = std::make_unique<BulkGroups[]>(kLanes);
    if (!kernel.register_lists.empty()) {
      warp.wgmma = std::make_unique<WgmmaState>();
      warp.wgmma->dirty.assign(kernel.register_count(), 1);
      warp.wgmma->writes.assign(kernel.register_count(), 0);
      warp.wgmma->reads.assign(kernel.register_count(), 0);
    }
    warp.clock = chain.next_clock_[warp.slot];
    warp.seen.shared() = known_at_begin_;
    if (kernel.uses_async_proxy) warp.proxied.shared().join(known_at_begin_);
    chain.slot_begin[warp.slot] = warp.clock;
    chain.occupants_[warp.slot].push_back({warp.clock, this, cta.id, warp.index});

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

void Launch::start_ctas() {
  const uint64_t total = options.grid.count();
  while (next_ < total && !free_places_.empty()) {
    const uint32_t place = free_places_.back();
    free_places_.pop_back();
    start_cta(order_.empty() ? next_ : order_[next_], place);
    occupied_[place] = true;
    ++next_;
  }
}

void Launch::finish_cta(Cta& cta) {
  if (kernel.uses_async_proxy) end_bulk_copies(cta);
  for (size_t i = 0; i < cta.agents_in_use; ++i) {
    const Cta::AgentSlot& agent = cta.agents[i];
    chain.next_clock_[agent.slot] = agent.last_clock + 1;
    if (chain.has_several()) done_.know_warp(agent.slot, agent.last_clock);
  }
  for (Warp& warp : cta.warps) {
    chain.next_clock_[warp.slot] = warp.clock + 1;
    if (!chain.has_several()) continue;
    done_.join(warp.seen.shared());
    for (int lane = 0; !warp.seen.is_uniform() && lane < kLanes; ++lane)
      done_.join(warp.seen[lane]);
    done_.know_warp(warp.slot, warp.clock);
  }
  launch_dependents(cta);
  const uint32_t place = (cta.first_slot - first_slot_) / warps_per_cta;
  occupied_[place] = false;
  free_places_.push_back(place);
  if (next_ == options.grid.count() && free_places_.size() == capacity_) finish();
}

void Launch::finish() {
  state_ = State::kEnded;
  abandon();
  resident_.clear();
  chain.ended();
}

void Launch::abandon() {
  count();
  if (workspace_) memory.free(workspace_);
}

Agent Launch::make_agent(Cta& cta, bool of_warps) {
  if (cta.agents_in_use == cta.agents.size())
    cta.agents.push_back({chain.take_slots(index, 1, true), 0});
  Cta::AgentSlot& place = cta.agents[cta.agents_in_use++];
  const uint32_t first = chain.next_clock_[place.slot];
  place.last_clock = first;
  chain.slot_begin[place.slot] = first;
  chain.occupants_[place.slot].push_back(
      {first, this, cta.id, of_warps ? Occupant::kAgentOfWarps : Occupant::kAgent});
  return {place.slot, first};
}

void Launch::note_agent_clock(Cta& cta, const Agent& agent, uint32_t clock) {
  for (size_t i = 0; i < cta.agents_in_use; ++i)
    if (cta.agents[i].slot == agent.slot)
      cta.agents[i].last_clock = std::max(cta.agents[i].last_clock, clock);
}

void Launch::launch_dependents(Cta& cta) {
  if (cta.launched_dependents) return;
  cta.launched_dependents = true;
  ++triggered_;
  ++progress;
}

bool Launch::await_prerequisites(Warp& warp, uint32_t lanes) {
  for (const LaunchRequest::Prerequisite& before : request_.after)
    if (chain.launches_[before.index]->state_ != State::kEnded) return false;
  for (const LaunchRequest::Prerequisite& before : request_.after) {
    // The end of a grid is visible through every proxy.
    const VectorClock& done = chain.launches_[before.index]->done_;
    if (kernel.uses_async_proxy) {
      for (uint32_t rest = lanes; rest; rest &= rest - 1)
        warp.proxied.own(std::countr_zero(rest)).join(done);
    }
    if ((lanes & warp.live) == warp.live && warp.seen.is_uniform()) {
      warp.seen.shared().join(done);
    } else {
      for (uint32_t rest = lanes; rest; rest &= rest - 1)
        warp.seen.own(std::countr_zero(rest)).join(done);
    }
  }
  return true;
}

// Up to two places where warps wait, at different lines.
void Launch::find_waiting(AccessSite& first, AccessSite& second) const {
  const auto found = [&](const Warp& warp, int pc, uint32_t lanes) {
    AccessSite& place = first.known ? second : first;
    if (place.known && place.ptx_line != first.ptx_line) return;
    place = site(warp, pc, std::countr_zero(lanes), "waits");
  };
  for (size_t i = 0; i < resident_.size(); ++i) {
    if (!occupied_[i]) continue;
    for (const Barrier& barrier : resident_[i]->barriers)
      for (const Barrier::Waiting& w : barrier.waiting) found(*w.warp, w.pc, w.lanes);
    for (const Warp& warp : resident_[i]->warps)
      for (const LaneGroup& group : warp.others)
        if (group.state == LaneGroup::State::kAwaitingGrids) found(warp, group.pc, group.lanes);
  }
  if (second.known && second.ptx_line == first.ptx_line) second = AccessSite{};
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

bool Launch::begin() {
  if (!fits()) return false;
  if (options.cooperative && !make_workspace()) return false;
  state_ = State::kRunning;
  make_register_image();
  const uint64_t total = options.grid.count();
  if (options.seed && total <= kMostShuffledCtas) {
    order_.resize(total);
    std::iota(order_.begin(), order_.end(), 0u);
    for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random() % i]);
  }
  resident_.resize(capacity_);
  occupied_.assign(capacity_, false);
  for (uint32_t i = capacity_; i > 0; --i) free_places_.push_back(i - 1);
  const uint32_t slots = capacity_ * warps_per_cta;
  first_slot_ = chain.take_slots(index, slots, false);
  known_at_begin_.join(VectorClock(chain.next_clock_.size()));
  return true;
}

void Launch::make_register_image() {
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
}

}  // namespace gptoss::emulator
