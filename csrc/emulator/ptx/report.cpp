#include "emulator/ptx/report.h"

#include <sstream>

namespace gptoss::emulator {

const char* name_of(ReportClass report_class) {
  static constexpr const char* kNames[] = {
      "race-shared-read-after-write",
      "race-shared-write-after-read",
      "race-shared-write-after-write",
      "race-global-read-after-write",
      "race-global-write-after-read",
      "race-global-write-after-write",
      "race-warp",
      "race-scope",
      "race-mixed",
      "race-same-value",
      "race-grids",
      "read-only-written",
      "async-read-early",
      "async-overwritten",
      "async-not-waited",
      "async-source-written",
      "proxy-fence",
      "wgmma-register",
      "wgmma-fence",
      "tensor-map",
      "mbarrier",
      "cluster-exit",
      "setmaxnreg",
      "uninitialised-address",
      "uninitialised-branch",
      "uninitialised-store",
      "uninitialised-operand",
      "out-of-bounds-global",
      "out-of-bounds-shared",
      "out-of-bounds-local",
      "out-of-bounds-param",
      "null",
      "misaligned",
      "use-after-free",
      "write-to-constant",
      "wrong-space",
      "divergent-barrier",
      "divergent-warp",
      "member-mask",
      "shuffle-inactive-lane",
      "barrier-count",
      "deadlock",
      "endless-spin",
      "instruction-limit",
      "trap",
      "assert",
      "launch-limit",
  };
  static_assert(std::size(kNames) == static_cast<size_t>(ReportClass::kCount));
  return kNames[static_cast<size_t>(report_class)];
}

const char* name_of(Fault fault) {
  static constexpr const char* kNames[] = {
      "none",
      "illegal-address",
      "misaligned-address",
      "illegal-instruction",
      "assert",
      "trap",
      "timeout",
      "launch-failure",
      "invalid-launch",
      "out-of-resources",
      "cooperative-too-large",
      "invalid-cluster",
  };
  return kNames[static_cast<size_t>(fault)];
}

namespace {

void print(std::ostringstream& out, const char* role, const AccessSite& site) {
  out << "\n  " << role << site.what;
  if (!site.text.empty()) {
    out << " at ";
    if (site.source_line) out << site.file << ':' << site.source_line << ", ";
    out << "PTX line " << site.ptx_line << ": " << site.text;
  }
  if (!site.what.empty() && !site.text.empty()) {
    out << "\n    by " << (site.kernel.empty() ? "" : site.kernel + ", ") << "CTA (" << site.cta.x
        << ',' << site.cta.y << ',' << site.cta.z << ')';
    if (site.warp >= 0) out << " warp " << site.warp;
    if (site.lane >= 0) out << " lane " << site.lane;
  }
}

}  // namespace

std::string Report::to_string() const {
  std::ostringstream out;
  out << (is_warning(report_class) ? "warning " : "error ") << name_of(report_class) << " in "
      << kernel << ": " << message;
  if (access.known) print(out, "", access);
  if (other.known) print(out, "against ", other);
  out << "\n  seed " << seed;
  if (times > 1) out << ", seen " << times << " times";
  return out.str();
}

}  // namespace gptoss::emulator
