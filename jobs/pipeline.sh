#!/usr/bin/env bash
# Partition, solve, verify, export and collect as jobs, each of which starts when the one before went well:
#
#   bash jobs/pipeline.sh                               the default problem, a small 2D Poisson one
#   bash jobs/pipeline.sh matrix.mtx.gz --precond amg   a file or a generator; options go to `solve` and `verify`
#
# Run it on a login node, from the repository's root, after `bash scripts/setup.sh` there. It prints each step with its
# job's number, and returns at once. matrix.h5, result.h5, x.npy, results.csv and what the jobs print end up in a
# folder of their own, FOLDER. A step that fails (not to converge is to fail) cancels those after it.
set -euo pipefail

# How much of the machine the steps in parallel get. sbatch has variables of its own for more, such as SBATCH_ACCOUNT,
# SBATCH_PARTITION and SBATCH_TIMELIMIT.
nodes=${NODES:-2}
ranks_per_node=${RANKS_PER_NODE:-2}
folder=${FOLDER:-pipeline-$(date +%Y%m%d-%H%M%S)}

source=poisson2d:n=256
if [[ ${1:-} == ?* && $1 != -* ]]; then
    source=$1
    shift
fi
if [[ ! -e jobs/step.sbatch ]]; then
    echo "there is no jobs/step.sbatch here: run this from the repository's root" >&2
    exit 2
fi
mkdir "$folder"

# step NAME SBATCH-ARGUMENT...: submit it to run after the one before.
before=
step() {
    local name=$1 job
    shift
    job=$(sbatch --parsable --job-name="hpc_sla-$name" --output="$folder/%x-%j.out" --kill-on-invalid-dep=yes \
        ${before:+--dependency="afterok:$before"} "$@")
    before=${job%%;*} # the cluster's name may follow
    echo "$name $before"
}
parallel=(--nodes="$nodes" --ntasks-per-node="$ranks_per_node")

step partition jobs/step.sbatch partition "$source" -o "$folder/matrix.h5" --parts $((nodes * ranks_per_node))
step solve "${parallel[@]}" jobs/solve.sbatch "$folder/matrix.h5" -o "$folder/result.h5" "$@"
step verify "${parallel[@]}" jobs/step.sbatch verify "$folder/matrix.h5" "$@"
step export jobs/step.sbatch export "$folder/result.h5" -o "$folder/x.npy"
step collect jobs/collect.sbatch "$folder"
