#!/usr/bin/env bash
# Install a clone of this package, not editable, into a new environment: what both containers are made of.
#
#   scripts/package/install.sh CLONE FOLDER
#
# TORCH_INDEX names the index that torch comes from, where that is not pip's own.
set -euo pipefail
clone=${1:?which clone?} folder=${2:?into which folder?}
python3 -m venv "$folder"
pip=("$folder/bin/python" -m pip --disable-pip-version-check install -q --no-cache-dir)
"${pip[@]}" --upgrade pip
index=()
[[ -z ${TORCH_INDEX:-} ]] || index=(--extra-index-url "$TORCH_INDEX")
"${pip[@]}" -c "$clone/constraints.txt" "${index[@]}" "$clone[mpich,plot,tables,mesh]"
# The compiled loops are optional to install, and what a container is for.
"$folder/bin/python" -c 'from hpc_sla.kernels import native; assert native.LIBRARY' ||
    { echo "the loops in C were not compiled" >&2 && exit 1; }
