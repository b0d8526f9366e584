// What the checks say.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "emulator/ptx/types.h"

namespace gptoss::emulator {

enum class ReportClass : uint8_t {
  // Two accesses that nothing orders.
  kRaceSharedReadAfterWrite,
  kRaceSharedWriteAfterRead,
  kRaceSharedWriteAfterWrite,
  kRaceGlobalReadAfterWrite,
  kRaceGlobalWriteAfterRead,
  kRaceGlobalWriteAfterWrite,
  kRaceWarp,         // inside one warp: a __syncwarp is missing
  kRaceScope,        // both strong, but a scope does not reach the other thread
  kRaceMixed,        // an atomic or strong access against a plain one
  kRaceSameValue,    // several threads write the same value (a warning)
  kRaceGrids,        // of two grids of which one may begin before the other has ended
  kReadOnlyWritten,  // ld.global.nc of what the kernel itself writes
  // Asynchronous copies.
  kAsyncReadEarly,
  kAsyncOverwritten,
  kAsyncNotWaited,
  kAsyncSourceWritten,
  kProxyFence,     // ordered, but fence.proxy.async is missing
  kWgmmaRegister,  // a register is touched while a wgmma uses it
  kWgmmaFence,     // registers of a wgmma were written, and wgmma.fence is missing
  kTensorMap,      // a tensor map that is none
  kMbarrier,       // an mbarrier that is none, or that is used as it must not be
  kClusterExit,    // a block ends that others of the cluster access, or did without its knowing
  kSetmaxnreg,     // registers moved between warps as they must not be
  // Uninitialised values.
  kUninitialisedAddress,
  kUninitialisedBranch,
  kUninitialisedStore,
  kUninitialisedOperand,  // of a barrier, a shuffle or another operand that steers
  // Addresses.
  kOutOfBoundsGlobal,
  kOutOfBoundsShared,
  kOutOfBoundsLocal,
  kOutOfBoundsParam,
  kNull,
  kMisaligned,
  kUseAfterFree,
  kWriteToConstant,
  kWrongSpace,
  // Convergence and progress.
  kDivergentBarrier,
  kDivergentWarp,
  kMemberMask,
  kShuffleInactiveLane,
  kBarrierCount,
  kDeadlock,
  kEndlessSpin,
  kInstructionLimit,
  // The kernel's own.
  kTrap,
  kAssert,
  kLaunchLimit,
  kCount
};

// A word for scripts and tests: "race-shared-read-after-write".
const char* name_of(ReportClass report_class);

inline bool is_warning(ReportClass c) { return c == ReportClass::kRaceSameValue; }

struct AccessSite {
  bool known = false;
  std::string kernel;  // where it is another than the report's
  std::string what;    // "write of 4 bytes"
  std::string file;
  int source_line = 0;
  int ptx_line = 0;
  std::string text;  // the instruction
  Dim3 cta{0, 0, 0};
  int warp = -1;
  int lane = -1;
};

struct Report {
  ReportClass report_class = ReportClass::kTrap;
  std::string kernel;
  std::string message;
  AccessSite access, other;
  uint64_t seed = 0;
  uint64_t times = 1;  // seen at this pair of instructions

  std::string to_string() const;
};

// What a launch ends with when it cannot go on.
enum class Fault : uint8_t {
  kNone,
  kIllegalAddress,
  kMisalignedAddress,
  kIllegalInstruction,
  kAssert,
  kTrap,
  kTimeout,
  kLaunchFailure,
  kInvalidLaunch,
  kOutOfResources,
  kCooperativeTooLarge,
  kInvalidCluster,
};
const char* name_of(Fault fault);

}  // namespace gptoss::emulator
