#!/usr/bin/env bash
# Prove what hpc_sla does on this machine's GPUs, 1 to 8 of them, in under ten minutes:
#
#   scripts/gpu_proof.sh                     correctness, the published tables, other libraries on the same card
#   scripts/gpu_proof.sh --small             the same, small, on the CPU
#   scripts/gpu_proof.sh --only correctness,table1 --minutes 30 -o card.json
#   scripts/gpu_proof.sh --help              all options
#
# Writes one JSON file (gpu_proof.json) and prints a short table; docs/gpu.md says what the figures mean. Exit code 0:
# nothing failed, 1: something did, 2: bad options, or no GPU.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Before the set-up, which may take minutes on a new machine; without a Python yet the programme itself looks.
if command -v python3 >/dev/null; then
    for word; do
        [[ $word != -h && $word != --help ]] || exec python3 "$ROOT/scripts/proof/options.py" --help
    done
    python3 "$ROOT/scripts/proof/options.py" "$@"
fi
"$ROOT/scripts/setup.sh"
threads=${OMP_NUM_THREADS-}
use_environment
# One rank a GPU leaves cores free: hpc_sla shares them out between the ranks where nobody has.
[[ -n $threads ]] || unset OMP_NUM_THREADS
exec python "$ROOT/scripts/proof/proof.py" "$@"
