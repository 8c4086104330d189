#!/usr/bin/env bash
# mpiexec -n P rank_output.sh FOLDER COMMAND...: rank 0 prints as usual; what another rank r prints goes to
# FOLDER/rank-r.log and its exit status to FOLDER/rank-r.status.
#
# Arguments `{rank}` of COMMAND are replaced by the rank.
set -u
folder=$1
shift
# As MPICH (and Slurm's PMI), Open MPI and PMIx name it.
rank=${PMI_RANK:-${OMPI_COMM_WORLD_RANK:-${PMIX_RANK:-0}}}
command=("${@//\{rank\}/$rank}")
if [[ $rank == 0 ]]; then
    exec "${command[@]}"
fi
"${command[@]}" >"$folder/rank-$rank.log" 2>&1
status=$?
echo "$status" >"$folder/rank-$rank.status"
exit "$status"
