#!/usr/bin/env bash
# From a fresh machine to a distributed solve on 4 MPI ranks, every command shown:
#
#   bash scripts/demo.sh [FOLDER]       FOLDER gets the files (default: ./demo-out)
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

out=${1:-demo-out}
"$ROOT/scripts/setup.sh"
use_environment
mkdir -p "$out"
cd "$out"
out=$PWD
step() { printf '\n# %s\n' "$*"; }

step "A 2D Poisson problem: made, partitioned with METIS into HDF5, solved by 4 ranks."
run timeout 120 mpiexec -n 4 python -m hpc_sla solve
step "The same matrix on 2 ranks (any number opens any file), against SciPy's direct solver."
run timeout 120 mpiexec -n 2 python -m hpc_sla verify poisson2d-n256-p4.h5 --against scipy
step "What the result file holds."
run timeout 60 python -m hpc_sla info poisson2d-n256-p4.result.h5

step "The same with a matrix of your own: .mtx, .npz, PETSc binary. Here one that SciPy wrote."
python - <<'PY'
import scipy.sparse as sp

n = 20000
sp.save_npz("mine.npz", sp.diags_array([-1.0, 2.5, -1.0], offsets=[-1, 0, 1], shape=(n, n)).tocsr())
PY
run timeout 60 python -m hpc_sla partition mine.npz -o mine.h5 --parts 4 --rhs manufactured
run timeout 120 mpiexec -n 4 python -m hpc_sla solve mine.h5
printf '\nThe files are in %s\n' "$out"
