// How a warp steps: guards, divergence and convergence, branches, barriers.
//
// Lanes at different program counters form groups. Normally the group with the lowest program
// counter runs and groups that meet merge, which finds the points of reconvergence that compilers
// aim at; at random another group runs, as nothing promises that order. An instruction that needs
// several lanes waits until they have come.
#include <algorithm>
#include <bit>

#include "emulator/ptx/machine.h"

namespace gptoss::emulator {
namespace {

// Branches back without any change of memory before a warp is looked at as a possible spin.
constexpr uint32_t kSpinThreshold = 1024;
constexpr uint32_t kSpinWindow = 16;

}  // namespace

void Warp::run(int quantum) {
  const Instruction* const code = kernel->code.data();
  uint64_t* const executions = launch->executions.data();
  uint64_t* const warp_executions = launch->warp_executions.data();
  while (quantum-- > 0 && active) {
    const Instruction& in = code[pc];
    uint32_t mask = active;
    if (in.guard >= 0) {
      if (const uint32_t bad = mask & ~defined[in.guard])
        launch->report(ReportClass::kUninitialisedBranch, *this, std::countr_zero(bad),
                       "the guard " + kernel->register_names[in.guard] +
                           " is computed from a value that was never set",
                       "branch or guarded instruction");
      const uint32_t value = predicate(in.guard);
      mask &= in.guard_negated ? ~value : value;
    }
    if ((in.converges || in.flow == Flow::kBarrier) && mask) {
      if (mask != active) {
        others.push_back({pc + 1, active & ~mask, LaneGroup::State::kRunnable});
        next_other_pc = std::min(next_other_pc, pc + 1);
        active = mask;
      }
      if (in.converges && !converge(in)) continue;
      mask = active;
    }
    if (in.flow == Flow::kAwaitGrids && !await_grids(mask)) continue;
    if (in.touches_wgmma && mask) touch_wgmma_registers(in);
    executions[pc] += std::popcount(mask);
    warp_executions[pc] += mask != 0;
    ++executed;
    switch (in.flow) {
      case Flow::kNext:
        if (mask) {
          if (in.member_mask >= 0) {
            execute_by_member_mask(in, mask);
          } else if (in.tracks_definedness) {
            in.execute(*this, in, mask);
          } else {
            uint32_t ok = kAllLanes;
            for (int i = 0; i < in.sources; ++i) ok &= defined[in.src[i]];
            in.execute(*this, in, mask);
            ok = mask & ok;
            for (int i = 0; i < in.destinations; ++i)
              defined[in.dst[i]] = (defined[in.dst[i]] & ~mask) | ok;
            if (ok != mask) {
              uint32_t from = 0;
              for (int i = 0; i < in.sources && !from; ++i)
                if (mask & ~defined[in.src[i]]) from = origin[in.src[i]];
              for (int i = 0; i < in.destinations; ++i) origin[in.dst[i]] = from;
            }
          }
        }
        if (++pc >= next_other_pc) regroup(LaneGroup::State::kRunnable);
        break;
      case Flow::kPoll: {
        polled_mbarrier = -1;
        if (mask) in.execute(*this, in, mask);
        if (polled_mbarrier >= 0) quantum = 0;
        if (++pc >= next_other_pc) regroup(LaneGroup::State::kRunnable);
        break;
      }
      case Flow::kBranch:
        branch(in, mask);
        break;
      case Flow::kExit:
        leave(mask);
        break;
      case Flow::kBarrier:
        if (mask)
          arrive_at_barrier(in);
        else
          ++pc;
        break;
      case Flow::kAwaitGrids:
        if (++pc >= next_other_pc) regroup(LaneGroup::State::kRunnable);
        break;
    }
  }
}

// griddepcontrol.wait by the lanes of `mask`: false where they stay before it.
bool Warp::await_grids(uint32_t mask) {
  if (!mask || launch->await_prerequisites(*this, mask)) return true;
  if (const uint32_t rest = active & ~mask)
    others.push_back({pc + 1, rest, LaneGroup::State::kRunnable});
  active = mask;
  regroup(LaneGroup::State::kAwaitingGrids);
  return false;
}

void Warp::wake_from_grids() {
  bool any = false;
  for (LaneGroup& group : others) {
    if (group.state != LaneGroup::State::kAwaitingGrids) continue;
    group.state = LaneGroup::State::kRunnable;
    any = true;
  }
  if (any && !active) regroup(LaneGroup::State::kRunnable);
}

void Warp::branch(const Instruction& in, uint32_t taken) {
  const uint32_t not_taken = active & ~taken;
  if (taken && in.target <= pc) note_backward_branch(in.target);
  if (!taken) {
    ++pc;
  } else {
    if (not_taken) others.push_back({pc + 1, not_taken, LaneGroup::State::kRunnable});
    active = taken;
    pc = in.target;
  }
  if (!others.empty()) regroup(LaneGroup::State::kRunnable);
}

void Warp::leave(uint32_t lanes) {
  if (async) {
    for (uint32_t rest = lanes; rest; rest &= rest - 1) {
      const int lane = std::countr_zero(rest);
      if (async[lane].copies.empty()) continue;
      launch->report(ReportClass::kAsyncNotWaited, *this, lane,
                     "a thread exits with cp.async copies that it never waited for");
      break;
    }
  }
  if (bulk) {
    for (uint32_t rest = lanes; rest; rest &= rest - 1) {
      const int lane = std::countr_zero(rest);
      const BulkGroups& groups = bulk[lane];
      if (!groups.open && groups.reads_waited == groups.committed) continue;
      launch->report(ReportClass::kAsyncNotWaited, *this, lane,
                     "a thread exits with bulk copies out of shared memory that it never waited "
                     "for (cp.async.bulk.wait_group)");
      break;
    }
  }
  if (wgmma && lanes && (!wgmma->groups.empty() || !wgmma->open_writes.empty()))
    launch->report(ReportClass::kAsyncNotWaited, *this, std::countr_zero(lanes),
                   "a warp exits with wgmma that it never waited for (wgmma.wait_group)");
  live &= ~lanes;
  active &= ~lanes;
  ++pc;
  if (lanes) {
    ++launch->progress;
    if (!others.empty() || !active) regroup(LaneGroup::State::kRunnable);
    cta->complete_barriers();
  }
}

// Of the lanes, which stand at instruction `at`, those that have all the others they wait for.
uint32_t Warp::met_lanes(int at, uint32_t lanes) const {
  const Instruction& in = kernel->code[at];
  if (in.member_mask < 0) return live & ~lanes ? 0 : lanes;
  const auto* members = reinterpret_cast<const uint32_t*>(
      registers + size_t{in.src[in.member_mask]} * kRegisterBytes);
  uint32_t met = 0;
  for (uint32_t rest = lanes; rest; rest &= rest - 1) {
    const int lane = std::countr_zero(rest);
    if (!(members[lane] & live & ~lanes)) met |= 1u << lane;
  }
  return met;
}

bool Warp::converge(const Instruction& in) {
  if (in.member_mask >= 0) {
    const uint32_t mask_register = in.src[in.member_mask];
    if (const uint32_t bad = active & ~defined[mask_register])
      launch->report(ReportClass::kUninitialisedOperand, *this, std::countr_zero(bad),
                     "the member mask was never set");
  }
  const uint32_t met = met_lanes(pc, active);
  if (!met) {
    regroup(LaneGroup::State::kConverging);
    return false;
  }
  if (met != active) {
    others.push_back({pc, active & ~met, LaneGroup::State::kConverging});
    active = met;
  }
  return true;
}

// Lanes that name the same members act together; each such set for itself.
void Warp::execute_by_member_mask(const Instruction& in, uint32_t mask) {
  const uint32_t* members = reg<uint32_t>(in.src[in.member_mask]);
  for (uint32_t rest = mask; rest;) {
    const uint32_t wanted = members[std::countr_zero(rest)];
    uint32_t set = 0;
    for (uint32_t lanes = rest; lanes; lanes &= lanes - 1)
      if (members[std::countr_zero(lanes)] == wanted) set |= lanes & (0 - lanes);
    rest &= ~set;
    if (const uint32_t outside = set & ~wanted)
      launch->report(ReportClass::kMemberMask, *this, std::countr_zero(outside),
                     "a lane executes an instruction whose member mask leaves it out");
    in.execute(*this, in, set);
  }
}

void Warp::regroup(LaneGroup::State state_of_running) {
  using State = LaneGroup::State;
  if (active) others.push_back({pc, active, state_of_running});
  active = 0;
  for (LaneGroup& group : others) group.lanes &= live;
  std::erase_if(others, [](const LaneGroup& group) { return group.lanes == 0; });
  for (size_t i = 0; i < others.size(); ++i) {
    for (size_t j = i + 1; j < others.size();) {
      const bool merge = others[i].pc == others[j].pc && others[i].state != State::kAtBarrier &&
                         others[j].state != State::kAtBarrier;
      if (!merge) {
        ++j;
        continue;
      }
      others[i].lanes |= others[j].lanes;
      others[i].state = State::kRunnable;
      others.erase(others.begin() + static_cast<std::ptrdiff_t>(j));
    }
  }
  size_t runnable = 0, converging = 0, lowest = 0;
  for (size_t i = 0; i < others.size(); ++i) {
    LaneGroup& group = others[i];
    if (group.state == State::kConverging && met_lanes(group.pc, group.lanes))
      group.state = State::kRunnable;
    if (group.state == State::kRunnable) {
      if (!runnable || group.pc < others[lowest].pc) lowest = i;
      ++runnable;
    }
    converging += group.state == State::kConverging;
  }
  next_other_pc = INT32_MAX;
  if (!runnable) {
    if (converging == others.size() && converging) {
      const LaneGroup& first = others[0];
      const LaneGroup& second = others[others.size() > 1 ? 1 : 0];
      const bool barrier = kernel->code[first.pc].flow == Flow::kBarrier ||
                           kernel->code[second.pc].flow == Flow::kBarrier;
      const AccessSite there =
          others.size() > 1
              ? launch->site(*this, second.pc, std::countr_zero(second.lanes), "waits")
              : AccessSite{};
      launch->report(barrier ? ReportClass::kDivergentBarrier : ReportClass::kDivergentWarp,
                     launch->site(*this, first.pc, std::countr_zero(first.lanes), "waits"), there,
                     "lanes of one warp wait for each other at different instructions");
      throw LaunchFault{Fault::kLaunchFailure};
    }
    return;
  }
  size_t chosen = lowest;
  if (runnable > 1 && launch->random() % 16 == 0) {
    do chosen = launch->random() % others.size();
    while (others[chosen].state != State::kRunnable);
  }
  pc = others[chosen].pc;
  active = others[chosen].lanes;
  others.erase(others.begin() + static_cast<std::ptrdiff_t>(chosen));
  for (const LaneGroup& group : others)
    if (group.pc > pc && group.state != State::kAtBarrier && group.state != State::kAwaitingGrids)
      next_other_pc = std::min(next_other_pc, group.pc);
}

void Warp::note_backward_branch(int target) {
  if (spin_progress != launch->progress) {
    spin_progress = launch->progress;
    spin_branches = 0;
    is_spinning = false;
    return;
  }
  const uint32_t n = ++spin_branches;
  if (n < kSpinThreshold || is_spinning) return;
  const bool remember = std::has_single_bit(n);
  if (!remember && n - std::bit_floor(n) > kSpinWindow) return;
  uint64_t hash = static_cast<uint64_t>(target) * 0x9e3779b97f4a7c15ull + active;
  const auto* words = reinterpret_cast<const uint64_t*>(registers);
  const size_t count = kernel->register_count() * (kRegisterBytes / 8);
  for (size_t i = 0; i < count; ++i) hash = (hash ^ words[i]) * 0x100000001b3ull;
  for (const LaneGroup& group : others)
    hash = (hash ^ (static_cast<uint64_t>(group.pc) << 32 | group.lanes)) * 0x100000001b3ull;
  if (remember)
    spin_hash = hash;
  else
    is_spinning = hash == spin_hash;
}

void Warp::know_each_other(uint32_t lanes) {
  if ((lanes & live) == live) {
    if (!seen.is_uniform()) {
      VectorClock all = seen.shared();
      for (uint32_t rest = live; rest; rest &= rest - 1) all.join(seen[std::countr_zero(rest)]);
      seen.make_uniform();
      seen.shared() = std::move(all);
    }
    seen.shared().know_warp(slot, clock);
    if (!proxied.is_uniform()) {
      ProxyClock all = proxied.shared();
      for (uint32_t rest = live; rest; rest &= rest - 1) all.join(proxied[std::countr_zero(rest)]);
      proxied.make_uniform();
      proxied.shared() = std::move(all);
    }
  } else {
    if (kernel->uses_async_proxy) {
      ProxyClock fenced_by_all;
      for (uint32_t rest = lanes; rest; rest &= rest - 1)
        fenced_by_all.join(proxied[std::countr_zero(rest)]);
      for (uint32_t rest = lanes; rest; rest &= rest - 1)
        proxied.own(std::countr_zero(rest)) = fenced_by_all;
    }
    VectorClock all(seen[std::countr_zero(lanes)]);
    for (uint32_t rest = lanes; rest; rest &= rest - 1) {
      all.join(seen[std::countr_zero(rest)]);
      all.know_lane(slot, std::countr_zero(rest), clock);
    }
    for (uint32_t rest = lanes; rest; rest &= rest - 1) seen.own(std::countr_zero(rest)) = all;
  }
  advance_clock();
}

void Warp::arrive_at_barrier(const Instruction& in) {
  const int lane = std::countr_zero(active);
  for (int i = 0; i < in.sources; ++i)
    if (const uint32_t bad = active & ~defined[in.src[i]])
      launch->report(ReportClass::kUninitialisedOperand, *this, std::countr_zero(bad),
                     "an operand of a barrier was never set");
  const auto refuse = [&](const std::string& message) {
    launch->report(ReportClass::kBarrierCount, *this, lane, message);
    throw LaunchFault{Fault::kIllegalInstruction};
  };
  const uint32_t id = reg<uint32_t>(in.src[0])[lane];
  if (id >= kBarriers) refuse("barrier " + std::to_string(id) + " does not exist: there are 16");
  const bool has_count = in.flags & 1;
  uint32_t count = 0;
  if (has_count) {
    count = reg<uint32_t>(in.src[1])[lane];
    const uint32_t all = static_cast<uint32_t>(cta->warps.size()) * kLanes;
    if (count == 0 || count % kLanes || count > all)
      refuse("a barrier of " + std::to_string(count) + " threads in a CTA of " +
             std::to_string(all));
  }
  Barrier& barrier = cta->barriers[id];
  if (!barrier.in_use) {
    barrier.in_use = true;
    barrier.arrived.assign(cta->warps.size(), 0);
    barrier.expected_warps = count / kLanes;
    barrier.seen = VectorClock();
    barrier.proxied = ProxyClock();
    barrier.population = 0;
    barrier.all = true;
    barrier.any = false;
  } else if (barrier.expected_warps != count / kLanes) {
    refuse("threads expect different numbers at one barrier: " +
           std::to_string(barrier.expected_warps * kLanes) + " and " + std::to_string(count));
  }
  if (barrier.arrived[index] & active) refuse("a warp arrives twice at one barrier");
  barrier.arrived[index] |= active;
  ++launch->counters.barriers;

  for (uint32_t rest = active; rest; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    if (!seen.is_uniform() || l == lane) barrier.seen.join(seen[l]);
    if (active != live) barrier.seen.know_lane(slot, l, clock);
    if (kernel->uses_async_proxy && (!proxied.is_uniform() || l == lane))
      barrier.proxied.join(proxied[l]);
  }
  if (active == live) barrier.seen.know_warp(slot, clock);
  advance_clock();

  if (in.destinations) {  // bar.red
    const uint32_t holds = source_predicate(in, in.sources - 1) & active;
    barrier.population += std::popcount(holds);
    barrier.all = barrier.all && holds == active;
    barrier.any = barrier.any || holds;
  }
  const bool only_arrives = in.flags & 2;
  const uint32_t lanes = active;
  const int at = pc++;
  if (!only_arrives) {
    barrier.waiting.push_back({this, lanes, &in, at});
    regroup(LaneGroup::State::kAtBarrier);
  } else if (!others.empty()) {
    regroup(LaneGroup::State::kRunnable);
  }
  cta->complete_barriers();
}

void Cta::complete_barriers() {
  for (Barrier& barrier : barriers) {
    if (!barrier.in_use) continue;
    uint32_t complete = 0, missing = 0;
    for (size_t i = 0; i < warps.size(); ++i) {
      const uint32_t arrived = barrier.arrived[i];
      const bool here = arrived && !(warps[i].live & ~arrived);
      complete += here;
      missing += !here && warps[i].live;
    }
    if (barrier.expected_warps ? complete >= barrier.expected_warps : missing == 0)
      release(barrier);
  }
}

void Cta::release(Barrier& barrier) {
  ++launch->progress;
  barrier.in_use = false;
  const std::vector<Barrier::Waiting> waiting = std::move(barrier.waiting);
  barrier.waiting.clear();
  for (const Barrier::Waiting& w : waiting) {
    Warp& warp = *w.warp;
    if ((w.lanes & warp.live) == warp.live) {
      warp.seen.make_uniform();
      warp.seen.shared().join(barrier.seen);
      if (warp.kernel->uses_async_proxy) {
        warp.proxied.make_uniform();
        warp.proxied.shared().join(barrier.proxied);
      }
    } else {
      for (uint32_t rest = w.lanes; rest; rest &= rest - 1)
        warp.seen.own(std::countr_zero(rest)).join(barrier.seen);
      if (warp.kernel->uses_async_proxy)
        for (uint32_t rest = w.lanes; rest; rest &= rest - 1)
          warp.proxied.own(std::countr_zero(rest)).join(barrier.proxied);
    }
    const Instruction& in = *w.instruction;
    if (in.destinations) {
      const uint32_t d = in.dst[0];
      if (in.sub == 0) {
        for (uint32_t rest = w.lanes; rest; rest &= rest - 1)
          warp.reg<uint32_t>(d)[std::countr_zero(rest)] = barrier.population;
      } else {
        warp.set_predicate(d, (in.sub == 1 ? barrier.all : barrier.any) ? kAllLanes : 0, w.lanes);
      }
      warp.defined[d] |= w.lanes;
    }
    for (LaneGroup& group : warp.others)
      if (group.state == LaneGroup::State::kAtBarrier && group.pc == w.pc + 1 &&
          (group.lanes & w.lanes))
        group.state = LaneGroup::State::kRunnable;
    if (!warp.active) warp.regroup(LaneGroup::State::kRunnable);
  }
}

}  // namespace gptoss::emulator
