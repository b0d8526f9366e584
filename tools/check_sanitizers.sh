#!/usr/bin/env bash
# The native tests under AddressSanitizer with UndefinedBehaviorSanitizer, then under
# ThreadSanitizer.
set -euo pipefail
cd "$(dirname "$0")/.."

check() { # build folder, sanitizers
  cmake -S . -B "$1" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="-O1 -g1" \
    -DGPTOSS_NATIVE_TESTS=ON -DGPTOSS_SANITIZE="$2" >/dev/null
  cmake --build "$1" --target gptoss_native_tests -j "$(nproc)" >/dev/null
  echo "$2:"
  "$1/tests/native/gptoss_native_tests"
}

export UBSAN_OPTIONS=print_stacktrace=1
check build-asan address,undefined
check build-tsan thread
