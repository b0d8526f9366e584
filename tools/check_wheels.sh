#!/usr/bin/env bash
# The wheels for Linux that tools/build_wheels makes, as their users get them. For x86-64: in fresh
# environments, the e2e tests and the unit tests of the core (--full: every unit test), and the demo
# by uvx and pipx. For aarch64: the native tests and the demo's chat in Debian's Python, emulated.
# Needs a network for packages.
# With --full they have the CUDA backend, and where tools/check_cuda.sh has built the stand-in driver,
# that loads its kernels.
#   tools/check_wheels.sh [--full] [--wheels FOLDER]    (wheels and native tests that are built)
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

unit=(tests/unit/test_{adapters,engine_batches,gguf,llm,ops,ops_arguments,prefix_cache,sample_op}.py
  tests/unit/test_{sampling_core,speculative,wrong_arguments}.py)
wheels= cuda=
while [ $# -gt 0 ]; do
  case $1 in
  --full)
    unit=(tests/unit)
    cuda=--cuda
    ;;
  --wheels) wheels=$(cd "$2" && pwd) && shift ;;
  *) echo "tools/check_wheels.sh: expected --full or --wheels FOLDER, got $1" >&2 && exit 2 ;;
  esac
  shift
done

if [ "$(uname -sm)" != "Linux x86_64" ]; then
  echo "skipped: wheels are built and tested on Linux x86-64"
  exit 0
fi

scratch=$(mktemp -d)
aarch64= # the process that checks it
trap '[ -z "$aarch64" ] || wait "$aarch64" || true; rm -rf "$scratch"' EXIT
step() { printf -- '-- %s (%ds)\n' "$1" "$SECONDS"; }
version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
wheel_of() { ls "$wheels"/*-cp"${1/./}"-*"$2".whl; } # Python's version, processor
chat() {
  local said
  said=$("$@" chat demo "What is 17 + 25?")
  echo "$said"
  [[ $said == *42* ]]
}

# Another Python than python3, with its headers.
other=
for number in 3.13 3.12 3.14 3.10 3.11; do
  for python in "python$number" "$HOME"/.pyenv/versions/"$number".*/bin/python; do
    [ "$(version "$python")" = "$number" ] && [ "$(version python3)" != "$number" ] || continue
    [ -f "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || continue
    other=$python
    break 2
  done
done
[ -n "$other" ] || echo "skipped: wheels for a second Python, of which none is here"

if [ -z "$wheels" ]; then
  step "wheels"
  wheels=$scratch/wheels
  # shellcheck disable=SC2086 # without a second Python it is no argument, nor is CUDA without --full
  tools/build_wheels --targets linux --pythons python3 $other $cuda --native-tests --out "$wheels" \
    >"$scratch/log" 2>&1 || {
    tail -50 "$scratch/log"
    exit 1
  }
  grep -E "^ *[0-9.]+ MB|^check_symbols: " "$scratch/log"
fi

python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install -q uv==0.13.9 pipx==1.18.4

check_aarch64() {
  if ! command -v qemu-aarch64 >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq &&
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends qemu-user \
        >/dev/null || echo "qemu-user could not be installed"
  fi
  if ! command -v qemu-aarch64 >/dev/null || ! grep -qx "ID=debian" /etc/os-release; then
    echo "skipped: needs Debian and qemu-aarch64, or root and apt-get to install it"
    return 0
  fi

  # Debian's Python for arm64 and all that it links, unpacked and not installed.
  arm=$scratch/arm64
  mkdir -p "$scratch"/apt/{lists,cache/archives}/partial "$arm"
  apt=(apt-get -qq -oDir::State="$scratch/apt" -oDir::State::lists="$scratch/apt/lists"
    -oDir::State::status=/dev/null -oDir::Cache="$scratch/apt/cache" -oAPT::Sandbox::User=root
    -oAPT::Architecture=arm64 -oAPT::Architectures=arm64 -oAcquire::Languages=none)
  if ! "${apt[@]}" update ||
    ! "${apt[@]}" install -y --no-install-recommends --download-only python3 libstdc++6 >/dev/null; then
    echo "skipped: Debian's packages for arm64 could not be fetched"
    return 0
  fi
  for package in "$scratch"/apt/cache/archives/*.deb; do
    dpkg-deb -x "$package" "$arm"
  done
  emulate() { qemu-aarch64 -L "$arm" "$@"; }

  # The scheduler's scenarios know no instruction set: a few show that they run.
  GPTOSS_TEST_EMULATED=1 GPTOSS_TEST_SCENARIOS=100 emulate "$wheels/native-tests-linux-aarch64"

  debian=$(basename "$(readlink "$arm/usr/bin/python3")")
  debian=${debian#python}
  if ! wheel=$(wheel_of "$debian" aarch64 2>/dev/null); then
    echo "skipped: the chat, as Debian's Python is $debian, for which no wheel was built"
    return 0
  fi
  mapfile -t platforms < <(printf -- '--platform=manylinux_2_%d_aarch64\n' {28..17})
  "$scratch/venv/bin/pip" install -q --target "$scratch/site" --only-binary=:all: \
    --python-version "$debian" --implementation cp "${platforms[@]}" --platform=manylinux2014_aarch64 "$wheel"
  PYTHONPATH=$scratch/site chat emulate "$arm/usr/bin/python3" -m gptoss
}

# Beside the tests for x86-64, as much of either runs on one processor.
check_aarch64 >"$scratch/aarch64" 2>&1 &
aarch64=$!

step "x86-64: tests in a fresh environment"
wheel=$(wheel_of "$(version python3)" x86_64)
python3 -m venv "$scratch/tested"
"$scratch/venv/bin/uv" pip install -q --python "$scratch/tested/bin/python" "$wheel[test]"
mkdir "$scratch/tree"
cp -r tests bench docs examples tools ./*.md pyproject.toml "$scratch/tree"
(
  cd "$scratch/tree"
  ../tested/bin/gptoss doctor
  GPTOSS_TEST_DATA="${GPTOSS_TEST_DATA:-$root/../shared/data}" \
    ../tested/bin/pytest -q tests/e2e "${unit[@]}"
  if [ -n "$cuda" ]; then
    ../tested/bin/python -c "from gptoss import _core; print(_core.backends())" |
      tee /dev/stderr | grep -q "no NVIDIA driver"
    driver=$root/build-emulator/csrc/emulator/driver
    if [ -e "$driver" ]; then # all skipped is no success
      LD_LIBRARY_PATH=$driver GPTOSS_EMULATOR_BUILD=$root/build-emulator \
        ../tested/bin/pytest -q --confcutdir tests tests/cuda/test_drivers.py |
        tee /dev/stderr | grep -E "^[0-9]+ passed" >/dev/null
    else
      echo "skipped: drivers that load the wheel's kernels: no build-emulator (tools/check_cuda.sh)"
    fi
  fi
)

step "x86-64: pipx and uvx"
export PIPX_HOME=$scratch/pipx PIPX_BIN_DIR=$scratch/pipx/bin
chat "$scratch/venv/bin/pipx" run --spec "$wheel" gptoss
if [ -n "$other" ]; then
  chat "$scratch/venv/bin/uv" tool run --isolated --python "$other" \
    --from "$(wheel_of "$(version "$other")" x86_64)" gptoss
fi

step "aarch64"
result=0
wait "$aarch64" || result=$?
cat "$scratch/aarch64"
[ "$result" = 0 ] || exit "$result"
step "done"
