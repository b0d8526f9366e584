#!/usr/bin/env bash
# The native tests under AddressSanitizer with UndefinedBehaviorSanitizer, then under
# ThreadSanitizer.
set -euo pipefail
cd "$(dirname "$0")/.."

check() { # preset of CMakePresets.json
  cmake --preset "$1" >/dev/null
  cmake --build --preset "$1" --target gptoss_native_tests -j "$(nproc)" >/dev/null
  echo "$1:"
  "build-$1/tests/native/gptoss_native_tests"
}

# Of the scheduler's random scenarios a share; tools/check_all runs them all.
export GPTOSS_TEST_SCENARIOS=${GPTOSS_TEST_SCENARIOS:-2000}
export UBSAN_OPTIONS=print_stacktrace=1
check asan
check tsan
