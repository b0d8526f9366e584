// How many threads cores of several CPUs are worth.
#pragma once

namespace gptoss::platform {

// With fewer cores the second CPU of each counts: there is memory speed left, and waiting to hide.
// Not measured: no machine with siblings was at hand.
inline constexpr int kFewCores = 4;

inline int threads_for_cores(int n_cores, int n_cpus) {
  return n_cores < kFewCores ? n_cpus : n_cores;
}

}  // namespace gptoss::platform
