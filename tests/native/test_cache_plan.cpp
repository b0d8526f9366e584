// How large a KV cache can be, by what a backend says of its devices.
#include <string>

#include "core/check.h"
#include "engine/cache_plan.h"
#include "harness.h"
#include "small_model.h"

namespace gptoss::test {
namespace {

// Of so many devices, with layers and memory alike.
MemoryPlan plan_on(int n_devices) {
  MemoryPlan plan;
  plan.page = {1000, 1000};
  for (int i = 0; i < n_devices && n_devices > 1; ++i) {
    plan.shares.push_back({.device = concat("cuda:", i),
                           .begin_layer = i,
                           .end_layer = i + 1,
                           .workspace = 50,
                           .page = {500, 500},
                           .available = 1'000'000});
  }
  plan.workspace = 50 * n_devices;
  plan.available = int64_t{1'000'000} * n_devices;
  return plan;
}

CachePlan planned(int n_devices, int n_devices_later) {
  int n_calls = 0;
  const auto plan = [&](const StepLimits&) {
    return plan_on(n_calls++ == 0 ? n_devices : n_devices_later);
  };
  return plan_cache(small_config(), plan, {.max_step_tokens = 64, .max_sequences = 2});
}

GPTOSS_TEST(a_cache_is_planned_over_the_devices_that_there_were_at_first) {
  for (const int n_devices : {1, 2, 3}) {
    GPTOSS_CHECK(planned(n_devices, n_devices).context_length > 0, n_devices);
  }
  // Others have come free, or were taken, in the meantime.
  for (const auto& [first, later] : {std::pair(1, 2), std::pair(2, 1), std::pair(2, 3)}) {
    std::string message;
    try {
      planned(first, later);
    } catch (const BackendError& error) {
      message = error.what();
    }
    GPTOSS_CHECK(message.find("changed while it was planned") != std::string::npos, first, " to ",
                 later, ": ", message);
  }
}

}  // namespace
}  // namespace gptoss::test
