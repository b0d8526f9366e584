#!/usr/bin/env bash
# clang-tidy over csrc, with the checks of .clang-tidy; any finding fails. Looks at the sources that this
# machine's build compiles, or at those that are named.
# Needs clang-tidy and pybind11 (pip install '.[dev]').
set -euo pipefail
cd "$(dirname "$0")/.."

command -v clang-tidy >/dev/null || {
  echo "clang-tidy is missing: pip install '.[dev]'" >&2
  exit 2
}
cmake --preset debug "-DPython_EXECUTABLE=$(command -v python3)" >/dev/null
if (($# == 0)); then
  mapfile -t sources < <(sed -n "s|^ *\"file\": \"$PWD/\(csrc/.*\)\",\?$|\1|p" \
    build-debug/compile_commands.json)
  set -- "${sources[@]}"
fi
# GCC's warning options are unknown to clang, whose warnings are not what is asked for here.
printf '%s\0' "$@" | xargs -0 -P "$(nproc)" -n 1 clang-tidy -p build-debug --quiet \
  --extra-arg=-Wno-unknown-warning-option --extra-arg=-Wno-everything
echo "clang-tidy: $# sources, no findings"
