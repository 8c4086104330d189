# Sourced by the job scripts beside it, from the folder that they were submitted from: the environment, and
# `use_ranks`, which sets LAUNCH, the command that starts ranks.
# shellcheck shell=bash

# With your site's own MPI, load its module here, the one that was loaded for
# `HPC_SLA_MPI=system bash scripts/setup.sh`.
# module load openmpi
environment=${HPC_SLA_VENV:-$SLURM_SUBMIT_DIR/.venv}

if [[ ! -e $environment/bin/activate ]]; then
    echo "no environment in $environment: run 'bash scripts/setup.sh' and submit from the repository's root," \
        "or set HPC_SLA_VENV" >&2
    exit 2
fi
# shellcheck source=/dev/null
source "$environment/bin/activate"

# One thread for each core that Slurm gave to a rank. srun no longer takes the count over from sbatch by itself.
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

# use_ranks N: LAUNCH for N ranks, as many of them on a node as the job has tasks there. srun where it speaks the
# protocol of the MPI in use: PMI2 for MPICH (the default environment), PMIx for Open MPI. Otherwise mpiexec,
# which starts its ranks through Slurm too. LAUNCH=mpiexec or LAUNCH="srun --mpi=pmix", overrides; -n N is added.
use_ranks() {
    local ranks=$1 protocol=pmix per_node=${SLURM_NTASKS_PER_NODE:-1}
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
        LAUNCH+=" --nodes=$(((ranks + per_node - 1) / per_node)) --wait=30"
    fi
}
