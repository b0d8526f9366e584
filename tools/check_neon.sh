#!/usr/bin/env bash
# The native tests built for aarch64 and run under qemu; the NEON kernels must give the bits that
# this machine's AVX2 and AVX-512 kernels give. Needs g++-aarch64-linux-gnu and qemu-user, whose
# processor `max` has dot products and I8MM.
set -euo pipefail
cd "$(dirname "$0")/.."

# The scheduler's scenarios know no instruction set: a few show that they run.
export GPTOSS_TEST_SCENARIOS=100
tests=tests/native/gptoss_native_tests

build() { # folder, further arguments for cmake
  cmake -S . -B "$1" -DCMAKE_BUILD_TYPE=Release -DGPTOSS_NATIVE_TESTS=ON "${@:2}" >/dev/null
  cmake --build "$1" --target gptoss_native_tests -j "$(nproc)" >/dev/null
  tools/check_symbols.py "$1"/CMakeFiles/gptoss_core.dir/csrc/cpu/isa/*.o
}

build build-neon -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static \
  -DCMAKE_CXX_FLAGS_RELEASE=-O2
# Most of it runs on one processor: the other builds meanwhile.
GPTOSS_TEST_EMULATED=1 qemu-aarch64 -cpu max build-neon/$tests \
  --checksums build-neon/checksums >build-neon/output 2>&1 &
neon=$!
trap 'kill "$neon" 2>/dev/null || true' EXIT

if grep -qw avx2 /proc/cpuinfo; then
  # As .ci/run installs the package: ccache has the core from there.
  build build-native -DGPTOSS_WERROR=ON
  build-native/$tests --checksums build-native/checksums
fi
result=0
wait "$neon" || result=$?
cat build-neon/output
[ "$result" = 0 ] || exit "$result"
grep -q '^ran on neon_i8mm, neon_dotprod, neon,' build-neon/output || {
  echo "tools/check_neon.sh: not every NEON variant was tested" >&2
  exit 1
}
if grep -qw avx2 /proc/cpuinfo; then
  diff build-native/checksums build-neon/checksums
  echo "NEON and AVX2 give the same bits"
fi
