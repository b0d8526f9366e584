#!/usr/bin/env bash
# All that a card can tell of the CUDA backend, in one call of less than ten minutes: builds for the
# card, runs the tests of the kernels on it, measures, and writes every line when it is there.
#   bench/gpu_report.sh [--out FOLDER] [--seconds N] [--build FOLDER] [--size tiny] [--tests N] [-- pytest arguments]
#
# Needs nvcc, CMake, a C++ compiler and Python with numpy; no network. What else Python has is used:
# pybind11 (else the headers that PyTorch brings), pytest (else no tests), rich, ml_dtypes and
# tokenizers (else no tests of whole models). GPTOSS_REPORT_WHEELS names a folder of wheels to take
# what is missing from.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=$root/build-gpu/report build=$root/build-gpu seconds=540 tests_seconds=150 size=published
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$2 ;;
    --build) build=$2 ;;
    --seconds) seconds=$2 ;;
    --tests) tests_seconds=$2 ;;
    --size) size=$2 ;;
    --) shift && break ;;
    *) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
  esac
  shift 2
done
python=${PYTHON:-$(command -v python3 || command -v python)}
mkdir -p "$out" "$build"
out=$(cd "$out" && pwd) build=$(cd "$build" && pwd)

# A line of report.jsonl and report.md for what this script does itself: NAME SECONDS RESULT.
line() {
  "$python" - "$out" "$@" <<'PYTHON'
import json, sys
out, name, seconds, result = sys.argv[1:]
with open(f"{out}/report.jsonl", "a") as file:
    print(json.dumps({"name": name, "value": result, "seconds": float(seconds)}), file=file)
with open(f"{out}/report.md", "a") as file:
    print(f"| {name} | {result} | | | | {seconds} |", file=file)
print(f"| {name} | {result} | {seconds} s |")
PYTHON
}
printf '| measurement | result | GB/s | of the copy | clocks, throttling | s |\n|---|---:|---:|---:|---|---:|\n' >"$out/report.md"
: >"$out/report.jsonl"

if [ -n "${GPTOSS_REPORT_WHEELS:-}" ]; then
  "$python" -m pip install -q --no-index --no-deps --target "$build/site" "$GPTOSS_REPORT_WHEELS"/*.whl ||
    for wheel in "$GPTOSS_REPORT_WHEELS"/*.whl; do "$python" -m zipfile -e "$wheel" "$build/site"; done
  export PYTHONPATH=$build/site${PYTHONPATH:+:$PYTHONPATH}
fi
export PYTHONPATH=$root/bench${PYTHONPATH:+:$PYTHONPATH}

# ---- The build, for the card at hand ------------------------------------------------------------
capability=$("$python" -c 'from cuda_driver import driver; print("%d%d" % driver().device.capability)')
architecture=sm_$capability
options=(-DSKBUILD=1 -DGPTOSS_CUDA=ON "-DPython_EXECUTABLE=$python"
  "-DGPTOSS_CUDA_ARCHITECTURES=${GPTOSS_REPORT_ARCHITECTURES:-$architecture}")
if ! "$python" -m pybind11 --cmakedir >/dev/null 2>&1; then
  include=$("$python" -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])')/include
  options+=("-DGPTOSS_PYBIND11_INCLUDE=$include")
fi
[ -f "$build/CMakeCache.txt" ] || ! command -v ninja >/dev/null || options+=(-G Ninja)
{
  cmake -S "$root" -B "$build" "${options[@]}" && cmake --build "$build" -j "$(nproc)" --target _core
} >"$out/build.log" 2>&1 || {
  line build "$SECONDS" "failed, see build.log"
  tail -n 30 "$out/build.log"
  exit 1
}
package=$build/package
mkdir -p "$package/gptoss"
for entry in "$root"/python/gptoss/*; do
  case $entry in *.so | */__pycache__) continue ;; esac
  ln -sfn "$entry" "$package/gptoss/$(basename "$entry")"
done
ln -sfn "$(ls "$build"/_core*.so)" "$package/gptoss/"
export PYTHONPATH=$package:$PYTHONPATH
line build "$SECONDS" "for ${GPTOSS_REPORT_ARCHITECTURES:-$architecture}, $(nvcc --version | sed -n 's/.*release \([0-9.]*\).*/nvcc \1/p')"

# ---- The tests of the kernels, on the card ------------------------------------------------------
begin=$SECONDS
if "$python" -c 'import pytest' 2>/dev/null; then
  tests=(tests/cuda --ignore tests/cuda/test_compiler.py)
  "$python" -c 'import ml_dtypes, rich, tokenizers' 2>/dev/null || tests+=(--ignore tests/cuda/test_model.py)
  status=0
  (cd "$root" && GPTOSS_CUDA_TEST_KERNELS=$build/gptoss_kernels.fatbin timeout "$tests_seconds" \
    "$python" -m pytest -q -m cuda -p no:cacheprovider --confcutdir tests/cuda "${tests[@]}" "$@") \
    >"$out/tests.log" 2>&1 || status=$?
  result=$(tail -n 1 "$out/tests.log")
  [ "$status" != 124 ] || result="cut after $tests_seconds s, failures so far: $(grep -o F "$out/tests.log" | wc -l)"
  line "pytest -m cuda" $((SECONDS - begin)) "$result"
else
  line "pytest -m cuda" 0 "skipped: no pytest"
fi

# ---- The measurements ---------------------------------------------------------------------------
left=$((seconds - SECONDS))
timeout $((left > 0 ? left + 40 : 40)) \
  "$python" "$root/bench/gpu_report.py" --out "$out" --seconds $left --size "$size" || line measurements "$SECONDS" "cut or failed ($?)"
echo "$out/report.md, $out/report.jsonl"
