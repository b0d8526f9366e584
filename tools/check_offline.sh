#!/usr/bin/env bash
# The commands of docs/offline.md: the first block with a network, the second with none, on the demo
# in place of the large model. Takes the compilation of the package, and some seconds.
set -euo pipefail
cd "$(dirname "$0")/.."

# The commands in the code block that follows `<!-- offline: $1 -->`.
block() {
  awk -v mark="<!-- offline: $1 -->" '
    $0 == mark { found = 1; next }
    found && /^```/ { if (inside) exit; inside = 1; next }
    inside { print }' docs/offline.md
}

# A network of its own, with nothing in it.
if unshare -rn true 2>/dev/null; then
  cut_off() { unshare -rn "$@"; }
elif unshare -n true 2>/dev/null; then
  cut_off() { unshare -n "$@"; }
else
  echo "skipped: no network namespaces here (unshare -n)"
  exit 0
fi

fetch=$(block fetch)
install=$(block install)
grep -q "hf download" <<<"$fetch"
grep -q -- "--no-index" <<<"$install"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/first" "$scratch/second"
git ls-files -z | xargs -0 cp --parents -t "$scratch/first"
cd "$scratch/first"
cp -r python/gptoss/demo gpt-oss-20b
bash -euxc "$(sed 's/^.*hf download.*$/.venv\/bin\/gptoss verify gpt-oss-20b --write/' <<<"$fetch")"
cp -r wheelhouse gpt-oss-20b "$scratch/second"
du -sh wheelhouse
rm -rf "$scratch/first"

cd "$scratch/second"
if cut_off python3 -c 'import socket; socket.create_connection(("1.1.1.1", 53), 2)' 2>/dev/null; then
  echo "the network is not cut off" >&2
  exit 1
fi
# No home either: nothing may come from a cache.
mkdir "$scratch/home"
HOME=$scratch/home cut_off bash -euxc "$install" | tee output
grep -q "42" output
echo "ran without a network"
