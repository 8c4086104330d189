# Sourced by the job scripts beside it, from the folder that they were submitted from: the environment,
# `use_ranks`, which sets LAUNCH, the command that starts ranks, and `last`, which runs a script's last command.
#
# HPC_SLA_ARCHIVE names a file of scripts/pack_environment.sh: the environment is then unpacked on each node, in
# HPC_SLA_NODE_DIR (default: TMPDIR or /tmp; /dev/shm on nodes without a disk).
# shellcheck shell=bash

# With your site's own MPI, load its module here, the one that was loaded for
# `HPC_SLA_MPI=system bash scripts/setup.sh`.
# module load openmpi
environment=${HPC_SLA_VENV:-$SLURM_SUBMIT_DIR/.venv}

# unpack_on_nodes ARCHIVE: the environment that scripts/pack_environment.sh has put into one file, unpacked once on
# each node of the job, so that no rank looks for modules on the shared file system. Sets `environment` and
# `node_folder`; removed when the job's script ends. Where it cannot be done it says why, and returns 1.
node_folder=
on_each_node=()
unpack_on_nodes() {
    local archive=$1 nodes=${SLURM_JOB_NUM_NODES:-1} newer folder sent
    if [[ ! -r $archive || ! -r $archive.sha256 ]]; then
        echo "no $archive with its .sha256: run 'bash scripts/pack_environment.sh'" >&2
        return 1
    fi
    # Sources, and what has been compiled of them: here, or where `pip install .` puts it.
    newer=$({
        find "$jobs/../hpc_sla" \( -name '*.py' -o -name '*.[ch]' -o -name '*.so' \) -newer "$archive" -print -quit
        find "$environment"/lib/python*/site-packages/hpc_sla -name '*.so' -newer "$archive" -print -quit
    } 2> /dev/null | head -n 1 || true)
    if [[ -n $newer ]]; then
        echo "$newer is newer than $archive: run 'bash scripts/pack_environment.sh' again" >&2
        return 1
    fi
    folder=${HPC_SLA_NODE_DIR:-${TMPDIR:-/tmp}}/hpc_sla-$(id -un)-${SLURM_JOB_ID:-$$}
    if ((nodes > 1)); then
        on_each_node=(srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --cpus-per-task=1 --mpi=none)
    fi
    # Slurm hands the file from node to node. Otherwise each node reads it from the shared file system, once.
    sent=$folder.archive.${archive##*/}
    if ((nodes == 1)) || ! sbcast --force "$archive" "$sent"; then
        sent=$archive
    fi
    node_folder=$folder
    trap leave_nodes EXIT
    if ! "${on_each_node[@]}" bash "$jobs/unpack.sh" "$sent" "$folder" "$(< "$archive.sha256")" < /dev/null; then
        leave_nodes
        return 1
    fi
    environment=$folder
}

# Remove what was unpacked.
leave_nodes() {
    [[ -n $node_folder ]] || return 0
    "${on_each_node[@]}" bash "$jobs/unpack.sh" --remove "$node_folder" < /dev/null || true
    node_folder=
}

# The folder of this file. A job's own script is a copy elsewhere.
jobs=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)

if [[ -n ${HPC_SLA_ARCHIVE:-} ]] && ! unpack_on_nodes "$HPC_SLA_ARCHIVE"; then
    echo "going on with the environment in $environment, on the file system that it is on" >&2
fi
if [[ -n $node_folder ]]; then
    export VIRTUAL_ENV=$environment PATH=$environment/bin:$PATH
    # No looking for modules in the home folder or in the one that the job was submitted from, and none in bytecode
    # to write. (PYTHONSAFEPATH: Python 3.11.)
    export PYTHONNOUSERSITE=1 PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1
    unset PYTHONHOME
    # The interpreter's own libraries, where it has any.
    if compgen -G "$environment/base/lib/*.so*" > /dev/null; then
        export LD_LIBRARY_PATH=$environment/base/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    fi
elif [[ -e $environment/bin/activate ]]; then
    # shellcheck source=/dev/null
    source "$environment/bin/activate"
else
    echo "no environment in $environment: run 'bash scripts/setup.sh' and submit from the repository's root," \
        "or set HPC_SLA_VENV" >&2
    exit 2
fi

# last COMMAND...: what a script ends with; `exec`, unless something is to be removed after it.
last() {
    [[ -n $node_folder ]] || exec "$@"
    "$@"
}

# One thread for each core that Slurm gave to a rank. srun no longer takes the count over from sbatch by itself.
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

# use_ranks N: LAUNCH for N ranks, as many of them on a node as the job has tasks there. srun where it speaks the
# protocol of the MPI in use: PMI2 for MPICH (the default environment), PMIx for Open MPI. Otherwise mpiexec,
# which starts its ranks through Slurm too. LAUNCH=mpiexec or LAUNCH="srun --mpi=pmix", overrides; -n N is added.
use_ranks() {
    local ranks=$1 protocol=pmix per_node=${SLURM_NTASKS_PER_NODE:-1} nodes
    if [[ -z ${LAUNCH:-} ]]; then
        if python -c 'import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI
raise SystemExit("Open MPI" in MPI.Get_library_version())'; then
            protocol=pmi2
        fi
        LAUNCH=mpiexec
        if srun --mpi=list 2>&1 | grep -qw "$protocol"; then
            LAUNCH="srun --mpi=$protocol"
        fi
    fi
    LAUNCH+=" -n $ranks"
    if [[ $LAUNCH == srun* ]]; then
        # --wait: a rank that dies while the others are starting must not leave them waiting. (Not
        # --kill-on-bad-exit: it would turn an exit code of 2 or 3 into a kill.)
        nodes=$(((ranks + per_node - 1) / per_node))
        LAUNCH+=" --nodes=$((nodes < SLURM_JOB_NUM_NODES ? nodes : SLURM_JOB_NUM_NODES)) --wait=30"
    fi
}
