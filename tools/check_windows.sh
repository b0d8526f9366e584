#!/usr/bin/env bash
# The native tests built for Windows on x86-64, as tools/build_wheels builds its wheel, and run in
# Wine on every instruction set that it offers; the wheel is built as well, and not imported, since
# Wine brings no Python. Needs Wine, or Debian and root to install it, and a network for packages.
#   tools/check_windows.sh [--wheels FOLDER]    (wheel and native tests that are built)
set -euo pipefail
cd "$(dirname "$0")/.."

wheels=
case ${1:-} in
'') ;;
--wheels) wheels=$(cd "$2" && pwd) ;;
*) echo "tools/check_windows.sh: expected --wheels FOLDER, got $1" >&2 && exit 2 ;;
esac

if [ "$(uname -sm)" != "Linux x86_64" ]; then
  echo "skipped: needs Linux on x86-64"
  exit 0
fi
if ! command -v wine >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq &&
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends wine wine64 \
      >/dev/null || echo "Wine could not be installed"
fi
if ! command -v wine >/dev/null; then
  echo "skipped: needs Wine, or root and apt-get to install it"
  exit 0
fi

scratch=$(mktemp -d)
export WINEPREFIX=$scratch/wine WINEDEBUG=-all
trap 'wineserver -k 2>/dev/null || true; rm -rf "$scratch"' EXIT

if [ -z "$wheels" ]; then
  wheels=$scratch/wheels
  tools/build_wheels --targets windows --pythons python3 --native-tests --out "$wheels" \
    >"$scratch/log" 2>&1 || {
    tail -50 "$scratch/log"
    exit 1
  }
  grep -E "^ *[0-9.]+ MB|^check_symbols: " "$scratch/log"
fi

wineboot --init >/dev/null 2>&1 </dev/null || {
  echo "Wine does not start" >&2
  exit 1
}
# The scheduler's scenarios know no instruction set: a few show that they run.
GPTOSS_TEST_SCENARIOS=100 wine "$wheels/native-tests-windows.exe" </dev/null | tee "$scratch/output"
for set in avx2 avx512; do
  if grep -qw "${set/avx512/avx512_vnni}" /proc/cpuinfo &&
    ! grep -qE "^ran on .*\b$set\b" "$scratch/output"; then
    echo "$set was not tested, though this machine has it" >&2
    exit 1
  fi
done
