// Runs a kernel: CTAs of warps, a warp as 32-wide arrays.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "emulator/ptx/clocks.h"
#include "emulator/ptx/counters.h"
#include "emulator/ptx/memory.h"
#include "emulator/ptx/profile.h"
#include "emulator/ptx/program.h"
#include "emulator/ptx/report.h"
#include "emulator/ptx/shadow.h"

namespace gptoss::emulator {

struct LaunchOptions {
  Dim3 grid, block;
  Dim3 cluster{0, 0, 0};        // CTAs; 0: what the kernel says, or 1
  bool large_clusters = false;  // of more than the 8 CTAs that every card takes
  uint32_t dynamic_shared_bytes = 0;
  // Repeats a launch exactly: order of CTAs, interleaving of warps, and how hostile tensor cores
  // round, unless tensor_seed says it: a card has one way.
  uint64_t seed = 0;
  std::optional<uint64_t> tensor_seed;
  bool check_races = true;
  bool check_uninitialised = true;
  bool count_memory = true;  // sectors and bank conflicts
  bool hostile_tensor_cores = false;
  bool cooperative = false;     // all CTAs must fit at once
  bool opted_in_shared = true;  // the function's limit of dynamic shared memory has been raised
  const DeviceProfile* profile = nullptr;  // null: A100
  uint32_t multiprocessors = 0;            // of them simulated; 0: 4
  uint32_t max_resident_warps = 64;        // not more CTAs at once than this allows
  uint64_t max_warp_instructions = 4'000'000'000;
  uint32_t max_reports = 100;
};

struct LaunchResult {
  Fault fault = Fault::kNone;
  std::vector<Report> reports;
  Counters counters;
  std::string output;  // of printf

  bool has_errors() const;
};

// Runs `kernel` over `memory` to its end. `parameters` is the kernel's parameter block, laid out
// by Kernel::parameters.
LaunchResult launch(Memory& memory, const Kernel& kernel, const std::vector<uint8_t>& parameters,
                    const LaunchOptions& options);

// One launch of several that may overlap.
struct LaunchRequest {
  struct Prerequisite {
    size_t index;       // of a request before this one
    bool programmatic;  // may begin once every CTA of it has launched its dependents, or ended
  };
  const Kernel* kernel = nullptr;
  const std::vector<uint8_t>* parameters = nullptr;
  LaunchOptions options;
  std::vector<Prerequisite> after;
};

// Runs the launches to their ends, or up to the first fault: the results of later ones are empty
// then. The seed of the first decides how they overlap.
std::vector<LaunchResult> launch_all(Memory& memory, const std::vector<LaunchRequest>& requests);

// ---- below: what the instructions work on ----

// Thrown where a kernel cannot go on.
struct LaunchFault {
  Fault fault;
};

inline constexpr size_t kRegisterBytes = kLanes * 8;

class Chain;
class Cluster;
class Cta;
class Launch;

// One cp.async of one lane, not yet landed.
struct AsyncCopy {
  uint64_t source;
  uint32_t target;
  uint16_t bytes, filled;  // `filled` come from the source, the rest are zero
  uint32_t pc;
};

// What works on its own beside the threads: an mbarrier's copies, a thread's bulk groups. Its
// accesses carry a slot of their own and the number of the batch that they belong to (a phase, a
// group) as clock, so that only those know them who waited for the batch.
struct Agent {
  uint32_t slot = 0;
  uint32_t first_clock = 0;
  uint32_t clock(uint32_t batch) const { return first_clock + batch; }
};

struct MBarrier {
  uint32_t expected = 0, pending = 0;  // arrivals
  int64_t bytes = 0;                   // that copies must still bring in this phase
  uint32_t phase = 0;
  VectorClock arriving, done;  // done: of the phase before
  ProxyClock arriving_proxied, done_proxied;
  // The same of arrivals by other CTAs of the cluster, for those who wait with its scope.
  VectorClock visiting, visited;
  ProxyClock visiting_proxied, visited_proxied;
  Agent agent;
  int pc = 0;  // of its initialisation
};

// A bulk copy in flight, or the arrival of a thread's cp.async at an mbarrier.
struct BulkCopy {
  // kAcross: from the shared memory of a CTA to that of another one of the cluster.
  enum class Kind : uint8_t { kToShared, kToGlobal, kArrival, kAcross };
  // Up to 16 bytes; without a global address zeros. kAcross: from an address of shared memory.
  struct Piece {
    uint64_t global;
    uint32_t shared;
    uint8_t bytes;
  };
  Kind kind = Kind::kToShared;
  Warp* warp = nullptr;   // that issued it
  Cta* target = nullptr;  // whose shared memory and mbarrier it goes to
  int lane = 0, pc = 0;
  uint32_t mbarrier = 0;  // address
  uint32_t batch = 0;
  uint64_t copies = 0;  // kArrival: the thread's cp.async up to this number
  VectorClock seen;
  ProxyClock proxied;
  std::vector<Piece> pieces;
  uint64_t bytes = 0;
  std::vector<uint8_t> data;  // kToGlobal: what was read already
};

// A lane's bulk groups: their reads of shared memory and their writes are waited for apart.
struct BulkGroups {
  bool in_use = false;
  Agent reads, writes;
  uint32_t committed = 0;
  uint32_t reads_waited = 0, writes_waited = 0;  // groups
  uint32_t open = 0;                             // copies not committed yet
};

// What of a warp's wgmma is in flight.
struct WgmmaState {
  struct Group {
    std::vector<uint32_t> writes, reads;  // registers
  };
  uint32_t committed = 0;               // groups
  std::vector<uint8_t> dirty;           // per register: written since the last wgmma.fence
  std::vector<uint32_t> writes, reads;  // per register: by so many in flight
  std::vector<uint32_t> open_writes, open_reads;
  std::deque<Group> groups;  // committed, not waited for
};

// The copies of one lane in the order of their issue, and how many of them each committed group
// has; those behind the groups are not committed yet.
struct AsyncGroups {
  std::vector<AsyncCopy> copies;
  std::vector<uint32_t> groups;
  uint32_t committed = 0;  // sum of groups
  uint64_t landed = 0;     // copies that are no longer in the list
};

// Lanes of a warp at one program counter.
struct LaneGroup {
  // kAwaiting: before an instruction of Flow::kAwait.
  enum class State : uint8_t { kRunnable, kConverging, kAtBarrier, kAwaiting };
  int pc = 0;
  uint32_t lanes = 0;
  State state = State::kRunnable;
};

class Warp {
 public:
  Launch* launch = nullptr;
  Cta* cta = nullptr;
  Cta* shared_cta = nullptr;  // whose shared memory an access goes to: see SharedOf
  const Kernel* kernel = nullptr;
  int index = 0;      // in the CTA
  uint32_t slot = 0;  // among the resident warps
  std::byte* registers = nullptr;
  uint32_t* defined = nullptr;  // per register: lanes whose value is defined
  uint32_t* origin = nullptr;   // per register: where an undefined value came from, 1 + pc

  int pc = 0;
  uint32_t active = 0;  // lanes that run; 0 while the whole warp waits
  uint32_t live = 0;    // lanes that have not exited
  std::vector<LaneGroup> others;
  int next_other_pc = INT32_MAX;  // where the running lanes may meet others
  uint32_t carry = 0;             // CC.CF per lane

  std::vector<uint8_t> local;            // [lane][byte]
  std::vector<uint32_t> local_written;   // per byte: lanes
  std::unique_ptr<AsyncGroups[]> async;  // per lane; null where the kernel has no cp.async
  std::unique_ptr<BulkGroups[]> bulk;    // likewise
  std::unique_ptr<WgmmaState> wgmma;     // null where the kernel has none

  uint32_t clock = 1;
  PerLane<VectorClock> seen;
  PerLane<ProxyClock> proxied;
  PerLane<Fenced> fenced;
  PerLane<Met> met;
  // Lanes that are between barrier.cluster.arrive and wait: in the phase that goes on, in the one
  // before.
  uint32_t cluster_arrived = 0, cluster_passed = 0;
  // mbarrier.init of this warp's threads, and of those that it knows, behind fence.mbarrier_init.
  VectorClock fenced_inits, known_inits;
  // setmaxnreg; 0 registers: nothing says how many there are.
  struct RegisterChange {
    uint32_t clock;
    int pc;
  };
  uint32_t registers_per_thread = 0;
  std::vector<RegisterChange> register_changes;

  uint64_t executed = 0;
  uint64_t spin_hash = 0;  // state at the last backward branch without progress
  uint64_t spin_progress = ~0ull;
  uint32_t spin_branches = 0;
  bool is_spinning = false;
  int64_t polled_mbarrier = -1;  // the last that was not complete

  template <class T>
  T* reg(uint32_t index_of_register) {
    return reinterpret_cast<T*>(registers + size_t{index_of_register} * kRegisterBytes);
  }
  uint32_t& predicate(uint32_t index_of_register) { return *reg<uint32_t>(index_of_register); }
  uint32_t source_predicate(const Instruction& in, int i) {
    const uint32_t value = predicate(in.src[i]);
    return in.negated >> i & 1 ? ~value : value;
  }
  void set_predicate(uint32_t index_of_register, uint32_t value, uint32_t mask) {
    uint32_t& p = predicate(index_of_register);
    p = (p & ~mask) | (value & mask);
  }

  bool is_done() const { return live == 0; }
  bool can_run() const { return active != 0; }
  // Runs up to `quantum` instructions.
  void run(int quantum);
  // Chooses the lanes to run next, after groups have changed.
  void regroup(LaneGroup::State state_of_running);

  // Memory model.
  void know_each_other(uint32_t lanes);  // __syncwarp
  void advance_clock() { ++clock; }
  // Lets lanes look again that an instruction of Flow::kAwait holds.
  void wake();

 private:
  bool converge(const Instruction& in);
  uint32_t met_lanes(int at, uint32_t lanes) const;
  void execute_by_member_mask(const Instruction& in, uint32_t mask);
  void branch(const Instruction& in, uint32_t taken);
  void note_backward_branch(int target);
  void leave(uint32_t lanes);
  void arrive_at_barrier(const Instruction& in);
  bool hold(uint32_t lanes);
  void touch_wgmma_registers(const Instruction& in);
};

struct Barrier {
  struct Waiting {
    Warp* warp;
    uint32_t lanes;
    const Instruction* instruction;
    int pc;
  };
  std::vector<uint32_t> arrived;  // lanes, per warp
  std::vector<Waiting> waiting;
  VectorClock seen;
  ProxyClock proxied;
  uint32_t expected_warps = 0;  // 0: all that live
  uint32_t population = 0;      // threads whose predicate held (bar.red)
  bool all = true, any = false;
  bool in_use = false;
};

inline constexpr int kBarriers = 16;
inline constexpr size_t kWarpgroup = 4;  // warps

class Cta {
 public:
  Launch* launch = nullptr;
  uint64_t number = 0;  // different for all CTAs of a chain
  bool launched_dependents = false;
  Dim3 id{0, 0, 0};
  Cluster* cluster = nullptr;
  uint32_t rank = 0;  // in the cluster
  bool has_ended = false;
  uint32_t free_registers = 0;  // that setmaxnreg.dec gave back, of all threads
  uint32_t first_slot = 0;
  std::vector<Warp> warps;
  std::vector<std::byte> register_file;
  std::vector<uint32_t> definedness;

  // Bytes and their state, both indexed by address in the shared window.
  enum : uint8_t { kWritten = 1, kInFlight = 2, kMbarrier = 4 };
  std::vector<uint8_t> shared;
  std::vector<uint8_t> shared_state;
  Shadow shadow;
  std::unordered_map<uint64_t, Released> released;
  Barrier barriers[kBarriers];
  std::unordered_map<uint32_t, MBarrier> mbarriers;  // by address
  // The last access to this shared memory by each thread of another CTA, by slot and lane: they
  // must be known here when the CTA ends.
  struct Visit {
    uint32_t clock, pc;
  };
  std::unordered_map<uint64_t, Visit> visits;

  // Slots of agents; those of an earlier CTA in this place are used again.
  struct AgentSlot {
    uint32_t slot, last_clock;
  };
  std::vector<AgentSlot> agents;
  size_t agents_in_use = 0;
  // The reads of shared memory by all wgmma: a warp's are those of the lane with its index, so that
  // one entry of the shadow holds what all warps read alike.
  std::optional<Agent> wgmma_reads;

  void complete_barriers();

 private:
  void release(Barrier& barrier);
};

// CTAs that run at once and reach each other's shared memory; one alone where there are no
// clusters.
class Cluster {
 public:
  uint64_t number = 0;     // different for all of a chain
  std::vector<Cta*> ctas;  // by rank
  uint32_t running = 0;    // CTAs that have not ended
  // barrier.cluster: what those did and knew that have arrived, and what the phase before hands on.
  VectorClock arriving, arriving_inits, done, done_inits;
  ProxyClock arriving_proxied, done_proxied;

  void complete_barrier();
};

// Whose a slot was, from a clock on.
struct Occupant {
  uint32_t first_clock;
  const Launch* launch;
  Dim3 cta;
  int warp;                                              // or kAgent, or kAgentOfWarps
  static constexpr int kAgent = -1, kAgentOfWarps = -2;  // the latter's lanes are a CTA's warps
};

// One grid.
class Launch {
 public:
  Launch(Chain& of_chain, size_t index_in_chain, const LaunchRequest& request);

  Chain& chain;
  const size_t index;
  Memory& memory;
  const Kernel& kernel;
  const std::vector<uint8_t>& parameters;
  const LaunchOptions& options;
  LaunchResult result;
  Counters& counters;
  std::vector<uint64_t> executions;       // threads, per instruction
  std::vector<uint64_t> warp_executions;  // per instruction
  uint32_t warps_per_cta = 1;
  Dim3 cluster{1, 1, 1};  // CTAs
  uint32_t ctas_per_cluster = 1;
  Allocation* last_allocation = nullptr;  // of the latest global access
  uint64_t& progress;                     // the chain's

  struct TensorBehaviour {
    int group;       // k terms that are added at once
    int extra_bits;  // kept below the result's last bit while a group is added
    bool truncate;   // of the sum, to f32
  };
  // How hostile tensor cores round for an instruction of this shape.
  TensorBehaviour tensor_behaviour(uint32_t shape) const;

  uint64_t random();  // from the chain's seed

  AccessSite site(const Warp& warp, int pc, int lane, std::string what) const;
  // The site of an access by slot and clock, whose warp may have gone.
  AccessSite past_site(uint32_t slot, uint32_t clock, int pc, int lane, std::string what) const;
  void report(ReportClass report_class, const AccessSite& access, const AccessSite& other,
              std::string message);
  void report(ReportClass report_class, const Warp& warp, int lane, std::string message,
              std::string what = "executed");
  // What grids that had ended when this one began had done.
  const VectorClock& done_before() const { return done_before_; }
  // Whether an access was made by another grid of the chain.
  bool is_of_other_grid(uint32_t slot, uint32_t clock) const;

  // For an operation of the CTA that goes on beside its threads.
  Agent make_agent(Cta& cta, bool of_warps = false);
  void note_agent_clock(Cta& cta, const Agent& agent, uint32_t clock);

  // griddepcontrol.launch_dependents
  void launch_dependents(Cta& cta);
  // Whether every grid that this one depends on has ended; if so the lanes know what it did.
  bool await_prerequisites(Warp& warp, uint32_t lanes);

 private:
  friend class Chain;

  bool begin();  // false where the card cannot hold it
  bool fits();
  bool make_workspace();
  void start_ctas();
  void start_cta(uint64_t cluster_number, uint32_t rank, uint32_t place_number);
  uint32_t special(const Cta& cta, const Warp& warp, SpecialRegister which, uint32_t lane) const;
  void check_visits(Cta& cta);
  void check_register_changes(const Cta& cta);
  void finish_cta(Cta& cta);
  void finish();
  void abandon();  // after a fault
  void make_register_image();
  void end_bulk_copies(Cta& cta);
  const Occupant& occupant(uint32_t slot, uint32_t clock) const;
  void find_waiting(AccessSite& first, AccessSite& second) const;
  void count();

  enum class State : uint8_t { kPending, kRunning, kEnded };
  State state_ = State::kPending;
  const LaunchRequest& request_;
  uint32_t first_slot_ = 0;
  std::vector<uint32_t> first_clock_;           // of its slots: what came before is another grid's
  std::vector<std::unique_ptr<Cta>> resident_;  // per place for a CTA; those of a cluster together
  std::vector<bool> occupied_;
  std::vector<std::unique_ptr<Cluster>> clusters_;  // per place for one
  std::vector<uint32_t> free_places_;               // for clusters
  std::vector<uint32_t> order_;                     // of clusters, where it is not their own
  uint64_t next_ = 0;                               // clusters started
  uint64_t triggered_ = 0;                          // CTAs that launched their dependents, or ended
  VectorClock known_at_begin_;                      // promised, however long the grids ahead take
  VectorClock done_before_;                         // the same, and what had ended by then
  VectorClock done_;  // all that the grid did and knew, once it has ended
  std::vector<std::byte> register_image_;
  std::vector<uint32_t> defined_image_;
  std::unordered_map<uint64_t, size_t> seen_reports_;
  uint64_t started_ = 0;
  uint32_t capacity_ = 1;
  uint64_t workspace_ = 0;  // of a cooperative launch
};

// Launches that may overlap (programmatic dependent launch). They share clocks, slots and the
// shadow of global memory, so that accesses of two grids that nothing orders are found like those
// of two warps: what a grid has done is known to those that depend on it once they have waited.
class Chain {
 public:
  Chain(Memory& device_memory, const std::vector<LaunchRequest>& requests);
  std::vector<LaunchResult> run();

  // A grid is checked against this many before it; all that came earlier it counts as ordered.
  static constexpr size_t kWindow = 4;

  Memory& memory;
  std::unordered_map<uint64_t, Released> released;  // at global addresses
  std::vector<uint32_t> slot_begin;                 // first clock of the warp that has the slot now
  uint64_t progress = 0;  // changes when memory does or a warp moves on from where it waited

  uint64_t random();
  bool has_several() const { return launches_.size() > 1; }
  bool is_agent(uint32_t slot) const { return is_agent_[slot]; }
  std::vector<BulkCopy> in_flight;  // land in any order, as late as they may

 private:
  friend class Launch;

  bool may_begin(Launch& launch);
  void begin(Launch& launch);
  void ended();
  uint32_t take_slots(size_t index, uint32_t count, bool for_agents);
  void run_grids();
  void land_one();
  [[noreturn]] void stuck();
  [[noreturn]] void spinning(const std::vector<Warp*>& runnable);

  std::vector<std::unique_ptr<Launch>> launches_;
  // Per launch: -1 before it could begin; 1 where it begins only after its prerequisites' end.
  std::vector<int8_t> is_late_;
  std::vector<std::vector<Occupant>> occupants_;  // per slot
  std::vector<uint32_t> next_clock_;              // per slot
  std::vector<bool> is_agent_;                    // per slot
  // Ranges of slots and the launch that had them last.
  struct Range {
    uint32_t begin, count;
    bool for_agents;
    size_t launch;
  };
  std::vector<Range> ranges_;
  Launch* current_ = nullptr;  // whose fault a fault is
  size_t first_live_ = 0;      // all launches before it have ended
  size_t settled_ = 0;         // all launches before it are in known_to_all_
  VectorClock known_to_all_;
  uint64_t random_state_ = 0;
};

}  // namespace gptoss::emulator
