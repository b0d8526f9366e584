#!/usr/bin/env bash
# Makes the PTX of the .cu files beside this script, for sm_80 with line numbers.
set -euo pipefail
cd "$(dirname "$0")"
for source in *.cu; do
  out=../${source%.cu}.ptx
  nvcc -arch=compute_80 -ptx -lineinfo -std=c++17 "$source" -o "$out"
  # Names of files without the folders of the machine that compiled.
  sed -i -E 's|^([[:space:]]*\.file[[:space:]]+[0-9]+ ")[^"]*/|\1|' "$out"
done
