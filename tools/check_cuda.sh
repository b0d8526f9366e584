#!/usr/bin/env bash
# The CUDA backend in the emulator: kernels alone, then whole models through the host's code and the
# stand-in driver. Needs nvcc; without it, says so and leaves.
#   tools/check_cuda.sh [pytest arguments]
#   tools/check_cuda.sh --full    20 seeds for each kernel, and whole models on six cards: a seed has a
#                                 card that rounds in a way of its own; on one of them kernels overlap.
#                                 Kernels as wheels have them are compiled for all cards, checked, and
#                                 loaded by drivers of several ages
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v nvcc >/dev/null && ! [ -x /usr/local/cuda/bin/nvcc ]; then
  echo "skipped: needs nvcc of CUDA 12 or newer"
  exit 0
fi
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}
run() {
  tools/emulated.sh cuda -- "$python" -m pytest -q -p no:cacheprovider --confcutdir tests "$@"
}

if [ "${1:-}" = --full ]; then
  GPTOSS_EMULATOR_SEEDS=20 GPTOSS_EMULATOR_FULL=1 run tests/cuda
  for seed in 2 3 4 5 6; do
    GPTOSS_EMULATOR_SEED=$seed run tests/cuda/test_model.py
  done
  GPTOSS_EMULATOR_DEVICES=H200 run tests/cuda/test_model.py tests/cuda/test_cpu_experts.py
  tools/build_fatbin --out build-fatbin/gptoss_kernels.fatbin
  GPTOSS_CUDA_FATBIN=$PWD/build-fatbin/gptoss_kernels.fatbin run tests/cuda/test_drivers.py
else
  run tests/cuda "$@"
fi
