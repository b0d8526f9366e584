#!/usr/bin/env bash
# Builds the emulator and the stand-in driver and runs their tests: about two minutes on 2 cores.
#   tools/check_emulator.sh [--full] [pytest arguments]
# --full runs every seed, form and mutation (see docs/emulator.md).
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = --full ]; then
  shift
  export GPTOSS_EMULATOR_SEEDS=100 GPTOSS_EMULATOR_FULL=1
fi
build=${GPTOSS_EMULATOR_BUILD:-$PWD/build-emulator}
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}
cmake -S . -B "$build" -DGPTOSS_EMULATOR=ON -DGPTOSS_WERROR=ON >/dev/null
cmake --build "$build" -j "$(nproc)" \
  --target gptoss_emulator gptoss-emulator gptoss_emulator_driver >/dev/null
GPTOSS_EMULATOR_BUILD=$build "$python" -m pytest -q --confcutdir tests/emulator tests/emulator "$@"
