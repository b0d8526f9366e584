#!/usr/bin/env bash
# Makes the PTX of the .cu files beside this script, with line numbers: for sm_80, hopper.cu and
# wgmma.cu for sm_90a.
set -euo pipefail
cd "$(dirname "$0")"
for source in *.cu; do
  out=../${source%.cu}.ptx
  arch=compute_80
  case $source in hopper.cu | wgmma.cu) arch=compute_90a ;; esac
  nvcc -arch=$arch -ptx -lineinfo -std=c++17 "$source" -o "$out"
  # Names of files without the folders of the machine that compiled.
  sed -i -E 's|^([[:space:]]*\.file[[:space:]]+[0-9]+ ")[^"]*/|\1|' "$out"
done
