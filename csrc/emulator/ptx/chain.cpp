// Grids that may overlap, and the random scheduler over all their warps.
#include <algorithm>
#include <bit>

#include "emulator/ptx/bulk.h"
#include "emulator/ptx/machine.h"

namespace gptoss::emulator {
namespace {

constexpr int kLongestQuantum = 64;
constexpr uint32_t kLandingOdds = 4;

uint64_t first_state(uint64_t seed) {  // splitmix64
  uint64_t x = seed + 1 + 0x9e3779b97f4a7c15ull;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return x ^ x >> 31;
}

// What the mbarriers still want that warps poll.
std::string polled_mbarriers(const std::vector<Warp*>& warps) {
  std::string out;
  std::vector<std::pair<const Cta*, int64_t>> seen;
  for (const Warp* warp : warps) {
    if (warp->polled_mbarrier < 0 || seen.size() == 3) continue;
    const std::pair<const Cta*, int64_t> key{warp->cta, warp->polled_mbarrier};
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) continue;
    seen.push_back(key);
    const auto found = warp->cta->mbarriers.find(static_cast<uint32_t>(key.second));
    if (found == warp->cta->mbarriers.end()) continue;
    const MBarrier& b = found->second;
    out += "; the mbarrier at shared address " + std::to_string(key.second) + " waits in phase " +
           std::to_string(b.phase) + " for " + std::to_string(b.pending) + " of " +
           std::to_string(b.expected) + " arrivals and " + std::to_string(b.bytes) + " bytes";
  }
  return out;
}

}  // namespace

Chain::Chain(Memory& device_memory, const std::vector<LaunchRequest>& requests)
    : memory(device_memory),
      is_late_(requests.size(), -1),
      random_state_(first_state(requests.front().options.seed)) {
  for (const LaunchRequest& request : requests)
    launches_.push_back(std::make_unique<Launch>(*this, launches_.size(), request));
}

uint64_t Chain::random() {  // xorshift64*
  random_state_ ^= random_state_ >> 12;
  random_state_ ^= random_state_ << 25;
  random_state_ ^= random_state_ >> 27;
  return (random_state_ * 0x2545f4914f6cdd1dull) >> 32;
}

std::vector<LaunchResult> Chain::run() {
  memory.begin_launch();
  try {
    run_grids();
  } catch (const LaunchFault& fault) {
    current_->result.fault = fault.fault;
  }
  std::vector<LaunchResult> results;
  for (const auto& launch : launches_) {
    // Where a fault ended the chain, of those that had begun.
    if (launch->state_ == Launch::State::kRunning) launch->abandon();
    results.push_back(std::move(launch->result));
  }
  return results;
}

// Slots that no grid of the window has had, or new ones.
uint32_t Chain::take_slots(size_t index, uint32_t count, bool for_agents) {
  for (Range& range : ranges_) {
    if (range.count < count || range.for_agents != for_agents || range.launch + kWindow > index)
      continue;
    range.launch = index;
    return range.begin;
  }
  const auto begin = static_cast<uint32_t>(next_clock_.size());
  ranges_.push_back({begin, count, for_agents, index});
  next_clock_.resize(begin + count, 1);
  slot_begin.resize(begin + count, 1);
  occupants_.resize(begin + count);
  is_agent_.resize(begin + count, for_agents);
  return begin;
}

void Chain::land_one() {
  const size_t chosen = random() % in_flight.size();
  current_ = in_flight[chosen].warp->launch;
  land_bulk_copy(*this, chosen);
}

bool Chain::may_begin(Launch& launch) {
  bool all_ended = true;
  for (const LaunchRequest::Prerequisite& before : launch.request_.after) {
    const Launch& earlier = *launches_[before.index];
    const bool has_ended = earlier.state_ == Launch::State::kEnded;
    all_ended = all_ended && has_ended;
    if (has_ended) continue;
    if (!before.programmatic || earlier.triggered_ != earlier.options.grid.count()) return false;
  }
  // Nothing promises that a grid begins as soon as it may.
  int8_t& late = is_late_[launch.index];
  if (late < 0) late = launches_.size() > 1 && random() % 4 == 0;
  return !late || all_ended;
}

void Chain::begin(Launch& launch) {
  current_ = &launch;
  for (; settled_ + kWindow <= launch.index; ++settled_)
    known_to_all_.join(launches_[settled_]->done_);
  launch.known_at_begin_ = known_to_all_;
  for (const LaunchRequest::Prerequisite& before : launch.request_.after)
    if (!before.programmatic) launch.known_at_begin_.join(launches_[before.index]->done_);
  launch.done_before_ = launch.known_at_begin_;
  for (size_t i = settled_; i < launch.index; ++i)
    if (launches_[i]->state_ == Launch::State::kEnded)
      launch.done_before_.join(launches_[i]->done_);
  if (!launch.begin()) throw LaunchFault{launch.result.fault};
}

void Chain::ended() {
  ++progress;
  for (size_t i = first_live_; i < launches_.size() && i < first_live_ + kWindow; ++i) {
    Launch& launch = *launches_[i];
    if (launch.state_ != Launch::State::kRunning) continue;
    for (size_t place = 0; place < launch.resident_.size(); ++place)
      if (launch.occupied_[place])
        for (Warp& warp : launch.resident_[place]->warps) warp.wake();
  }
}

void Chain::run_grids() {
  std::vector<Warp*> runnable;
  for (;;) {
    while (first_live_ < launches_.size() &&
           launches_[first_live_]->state_ == Launch::State::kEnded)
      ++first_live_;
    if (first_live_ == launches_.size()) return;
    runnable.clear();
    bool all_spin = true;
    // Those behind the window must have ended before a grid begins: it counts them as known.
    const size_t end = std::min(launches_.size(), first_live_ + kWindow);
    for (size_t i = first_live_; i < end; ++i) {
      Launch& launch = *launches_[i];
      if (launch.state_ == Launch::State::kPending && may_begin(launch)) begin(launch);
      if (launch.state_ != Launch::State::kRunning) continue;
      launch.start_ctas();
      for (size_t place = 0; place < launch.resident_.size(); ++place) {
        if (!launch.occupied_[place]) continue;
        for (Warp& warp : launch.resident_[place]->warps) {
          if (!warp.can_run()) continue;
          runnable.push_back(&warp);
          all_spin = all_spin && warp.is_spinning && warp.spin_progress == progress;
        }
      }
    }
    // Copies land at random, and at the latest when nothing goes on without them.
    if (!in_flight.empty() && (runnable.empty() || all_spin || random() % kLandingOdds == 0)) {
      land_one();
      continue;
    }
    if (runnable.empty()) stuck();
    if (all_spin) spinning(runnable);
    Warp& warp = *runnable[random() % runnable.size()];
    Launch& launch = *warp.launch;
    current_ = &launch;
    const uint64_t before = warp.executed;
    warp.run(1 + static_cast<int>(random() % kLongestQuantum));
    launch.counters.warp_instructions += warp.executed - before;
    if (launch.counters.warp_instructions > launch.options.max_warp_instructions) {
      launch.report(ReportClass::kInstructionLimit, warp, std::countr_zero(warp.active | 1u << 31),
                    "more than " + std::to_string(launch.options.max_warp_instructions) +
                        " warp instructions were run");
      throw LaunchFault{Fault::kTimeout};
    }
    if (warp.is_done()) {
      Cta& cta = *warp.cta;
      if (std::all_of(cta.warps.begin(), cta.warps.end(),
                      [](const Warp& w) { return w.is_done(); }))
        launch.finish_cta(cta);
    }
  }
}

void Chain::stuck() {
  current_ = launches_[first_live_].get();
  AccessSite first, second;
  for (size_t i = first_live_; i < launches_.size(); ++i)
    if (launches_[i]->state_ == Launch::State::kRunning) launches_[i]->find_waiting(first, second);
  current_->report(ReportClass::kDeadlock, first, second,
                   "every warp waits, and nothing is left that could wake one");
  throw LaunchFault{Fault::kTimeout};
}

void Chain::spinning(const std::vector<Warp*>& runnable) {
  const auto spins = [](const Warp& warp) {
    return warp.launch->site(warp, warp.pc, std::countr_zero(warp.active), "spins");
  };
  const Warp& warp = *runnable.front();
  current_ = warp.launch;
  const AccessSite other = runnable.size() > 1 ? spins(*runnable.back()) : AccessSite{};
  current_->report(ReportClass::kEndlessSpin, spins(warp), other,
                   "every warp that can run repeats a loop in which nothing changes any more (" +
                       std::to_string(current_->capacity_) + " of " +
                       std::to_string(current_->options.grid.count()) +
                       " CTAs are resident at once)" + polled_mbarriers(runnable));
  throw LaunchFault{Fault::kTimeout};
}

std::vector<LaunchResult> launch_all(Memory& memory, const std::vector<LaunchRequest>& requests) {
  if (requests.empty()) return {};
  return Chain(memory, requests).run();
}

LaunchResult launch(Memory& memory, const Kernel& kernel, const std::vector<uint8_t>& parameters,
                    const LaunchOptions& options) {
  return std::move(launch_all(memory, {{&kernel, &parameters, options, {}}}).front());
}

}  // namespace gptoss::emulator
