// Kernels in the form that the machine runs: instructions with their operands resolved.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "emulator/ptx/syntax.h"
#include "emulator/ptx/types.h"

namespace gptoss::emulator {

class Memory;
class Warp;
struct Instruction;

// Runs one instruction on the lanes of `mask`.
using Execute = void (*)(Warp&, const Instruction&, uint32_t mask);

// Those lanes of `mask` that may pass an instruction of Flow::kAwait, which passes them.
using MayGoOn = uint32_t (*)(Warp&, const Instruction&, uint32_t mask);

// What happens to the program counter.
// kPoll is kNext for what a warp repeats until it succeeds: a failure ends its turn.
// kAwait: the lanes stay before the instruction until `may_go_on` says yes.
enum class Flow : uint8_t { kNext, kPoll, kBranch, kExit, kBarrier, kAwait };

// The unit of a multiprocessor that an instruction occupies; what counters count by.
enum class Pipe : uint8_t {
  kInteger,
  kFloat,
  kHalf,
  kDouble,
  kSpecial,
  kConvert,
  kMove,
  kMemory,
  kAsync,
  kTensor,
  kWarp,
  kControl,
  kCount
};
const char* name_of(Pipe pipe);

enum class Semantics : uint8_t { kWeak, kVolatile, kRelaxed, kAcquire, kRelease, kAcqRel };

inline constexpr int kMaxDestinations = 8;
inline constexpr int kMaxSources = 16;

struct Instruction {
  Execute execute = nullptr;
  MayGoOn may_go_on = nullptr;
  int32_t guard = -1;  // predicate register, -1 where there is none
  bool guard_negated = false;
  Flow flow = Flow::kNext;
  Pipe pipe = Pipe::kControl;
  // Waits until all lanes that take part have come here: those of the member mask in
  // src[member_mask], or every live lane of the warp where member_mask is -1.
  bool converges = false;
  int8_t member_mask = -1;
  // The handler keeps account of which results are defined.
  bool tracks_definedness = false;
  // Has a register that a wgmma of the kernel uses, and is none itself.
  bool touches_wgmma = false;
  uint8_t destinations = 0, sources = 0;
  std::array<uint32_t, kMaxDestinations> dst{};
  std::array<uint32_t, kMaxSources> src{};
  uint16_t negated = 0;  // bit i: src[i] is a predicate to be negated
  int32_t target = -1;   // branches
  int32_t list = -1;     // of the kernel's lists of registers, where dst is too short

  Type type = Type::kNone;   // last type of the opcode
  Type type2 = Type::kNone;  // first type of the opcode
  Space space = Space::kGeneric, space2 = Space::kGeneric;
  Semantics semantics = Semantics::kWeak;
  Scope scope = Scope::kNone;
  Rounding rounding = Rounding::kNearest;
  bool saturate = false, flush = false;
  uint8_t vector = 1;          // elements of a vector access
  uint8_t register_bytes = 0;  // of the data registers of a load or store
  uint8_t sub = 0;             // variant within a family
  uint32_t flags = 0;
  int64_t immediate = 0;
  // Addresses: register (-1: none) of 4 or 8 bytes, plus a constant.
  int32_t address = -1, address2 = -1;
  uint8_t address_bytes = 8, address2_bytes = 8;
  int64_t offset = 0, offset2 = 0;
};

struct InstructionText {
  Position position;
  std::string text;
};

struct SharedVariable {
  std::string name;
  uint32_t begin = 0, end = 0;  // byte range in the shared window
};

struct Parameter {
  std::string name;
  uint32_t offset = 0, size = 0;
};

enum class SpecialRegister : uint8_t {
  kTidX,
  kTidY,
  kTidZ,
  kNtidX,
  kNtidY,
  kNtidZ,
  kCtaidX,
  kCtaidY,
  kCtaidZ,
  kNctaidX,
  kNctaidY,
  kNctaidZ,
  kLaneid,
  kWarpid,
  kNwarpid,
  kSmid,
  kNsmid,
  kLanemaskEq,
  kLanemaskLt,
  kLanemaskLe,
  kLanemaskGt,
  kLanemaskGe,
  kDynamicSmemSize,
  kTotalSmemSize,
  kEnvreg1,  // address of the grid's workspace, high and low half
  kEnvreg2,
  kClusteridX,
  kClusteridY,
  kClusteridZ,
  kNclusteridX,
  kNclusteridY,
  kNclusteridZ,
  kClusterCtaidX,
  kClusterCtaidY,
  kClusterCtaidZ,
  kClusterNctaidX,
  kClusterNctaidY,
  kClusterNctaidZ,
  kClusterCtarank,
  kClusterNctarank,
  kClock,
  kClock64,
  kGlobaltimer,
};

struct Kernel {
  struct Constant {
    uint32_t reg;
    uint64_t bits;
    int bytes;  // width of the register, 0 for a predicate
  };
  struct Special {
    uint32_t reg;
    SpecialRegister which;
  };

  std::string name;
  std::vector<Instruction> code;
  std::vector<InstructionText> text;  // beside code
  std::vector<std::string> register_names;
  std::vector<Constant> constants;
  std::vector<Special> specials;
  std::vector<Parameter> parameters;
  uint32_t parameter_bytes = 0;
  std::vector<SharedVariable> shared;
  uint32_t static_shared_bytes = 0;  // as the card counts them, without the emulator's gaps
  uint32_t dynamic_shared_begin = 0;
  uint32_t local_bytes = 0;
  std::vector<std::vector<uint32_t>> register_lists;
  bool uses_async_proxy = false;  // bulk copies, mbarriers, wgmma
  bool maps_shared = false;       // addresses may be of another CTA's shared memory
  Dim3 required_threads{0, 0, 0};
  uint32_t max_threads = 0;
  uint32_t max_registers = 0;
  uint32_t min_ctas = 0;
  Dim3 required_cluster{0, 0, 0};
  uint32_t max_cluster = 0;
  std::shared_ptr<const std::unordered_map<int, std::string>> files;

  uint32_t register_count() const { return static_cast<uint32_t>(register_names.size()); }
};

struct GlobalVariable {
  std::string name;
  uint64_t address = 0;
  uint64_t size = 0;
};

// A module loaded into a memory. Its variables live there until it is destroyed.
class Module {
 public:
  // Throws LoadError naming line and instruction for anything that is not modelled.
  static std::shared_ptr<Module> load(const std::string& text, std::shared_ptr<Memory> memory);
  ~Module();
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  const Kernel* find(const std::string& name) const;
  const GlobalVariable* find_variable(const std::string& name) const;
  const std::vector<std::unique_ptr<Kernel>>& kernels() const { return kernels_; }
  const std::vector<GlobalVariable>& variables() const { return variables_; }

 private:
  Module() = default;
  friend class Linker;

  std::shared_ptr<Memory> memory_;
  std::vector<std::unique_ptr<Kernel>> kernels_;
  std::vector<GlobalVariable> variables_;
};

}  // namespace gptoss::emulator
