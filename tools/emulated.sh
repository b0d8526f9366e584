#!/usr/bin/env bash
# Runs a command with a GPU that is emulated, so that device="cuda" works in it; needs nvcc, or
# compiled kernels in GPTOSS_CUDA_FATBIN. Builds what it needs first: the emulator with its stand-in
# driver, and the package with CUDA.
#   tools/emulated.sh cuda -- python -c 'import gptoss; print(gptoss.load("demo", device="cuda"))'
# The command finds the package of this source tree, with kernels for compute capability 8.0 and for
# 9.0, where they overlap. GPTOSS_EMULATOR_DEVICES names other devices than one A100
# (docs/emulator.md).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

if [ "${1:-}" != cuda ] || [ "${2:-}" != -- ] || [ $# -lt 3 ]; then
  echo "usage: tools/emulated.sh cuda -- COMMAND [ARGUMENT...]" >&2
  exit 2
fi
shift 2
[ -n "${GPTOSS_CUDA_FATBIN:-}" ] || command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ] || {
  echo "tools/emulated.sh: nvcc is missing, which compiles the kernels" >&2
  exit 2
}
emulator=${GPTOSS_EMULATOR_BUILD:-$root/build-emulator}
build=$root/build-emulated
package=$build/package
python=${PYTHON:-$([ -x "$root/.venv/bin/python" ] && echo "$root/.venv/bin/python" || echo python)}

cmake -S "$root" -B "$emulator" -DGPTOSS_EMULATOR=ON -DGPTOSS_CUDA=OFF >/dev/null
cmake --build "$emulator" -j "$(nproc)" --target gptoss_emulator gptoss_emulator_driver >/dev/null
cmake -S "$root" -B "$build" -DSKBUILD=1 -DGPTOSS_CUDA=ON -DGPTOSS_WERROR=ON \
  -DGPTOSS_CUDA_ARCHITECTURES="compute_80;compute_90" \
  -DGPTOSS_CUDA_FATBIN="${GPTOSS_CUDA_FATBIN:-}" \
  -DPython_EXECUTABLE="$(command -v "$python")" >/dev/null
cmake --build "$build" -j "$(nproc)" --target _core >/dev/null

# The package's sources, and the module that was built: other builds of this tree stay as they are.
mkdir -p "$package/gptoss"
for entry in "$root"/python/gptoss/*; do
  case $entry in *.so | */__pycache__) continue ;; esac
  ln -sfn "$entry" "$package/gptoss/$(basename "$entry")"
done
ln -sfn "$(ls "$build"/_core*.so)" "$package/gptoss/"

export GPTOSS_EMULATOR_BUILD=$emulator
export LD_LIBRARY_PATH=$emulator/csrc/emulator/driver${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export PYTHONPATH=$package${PYTHONPATH:+:$PYTHONPATH}
export GPTOSS_EMULATOR_DEVICES=${GPTOSS_EMULATOR_DEVICES:-A100}
exec "$@"
