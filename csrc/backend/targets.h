// The targets of single ops (ops/target.h) by name: a device, or one of its variants, such as "cpu"
// and "cpu:avx2".
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ops/target.h"

namespace gptoss {

struct TargetInfo {
  std::string name;
  bool available;
  std::string detail;  // why it is not available
};

// Every target that this build knows: of each device the one that it prefers, then its variants.
std::vector<TargetInfo> list_targets();

// Throws BackendError if the device is unknown, naming what is known, or the variant cannot run
// here.
std::unique_ptr<ops::Target> make_target(const std::string& name);

// What each device folder provides.
namespace cpu {
// Without the device's name.
std::vector<TargetInfo> target_variants();
// `variant`: an instruction set; "" takes the one in use.
std::unique_ptr<ops::Target> make_target(const std::string& variant);
}  // namespace cpu

}  // namespace gptoss
