#!/usr/bin/env bash
# The CUDA backend in the emulator: kernels alone, then whole models through the host's code and the
# stand-in driver. Needs nvcc; without it, says so and leaves.
#   tools/check_cuda.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v nvcc >/dev/null && ! [ -x /usr/local/cuda/bin/nvcc ]; then
  echo "skipped: needs nvcc of CUDA 12 or newer"
  exit 0
fi
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}
tools/emulated.sh cuda -- "$python" -m pytest -q -p no:cacheprovider --confcutdir tests tests/cuda "$@"
