"""What the launcher (mpiexec, srun, torchrun) says about this process. No MPI is needed for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from hpc_sla.errors import InputError

# (rank, number of ranks) as named by MPICH and its kin, Open MPI, MVAPICH2, and Slurm's steps.
# SLURM_NTASKS is left out on purpose: it is also set in a batch script, which runs once.
_VARIABLES = (
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("PMIX_RANK", "SLURM_STEP_NUM_TASKS"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)
_LAUNCHERS = {
    "PMI_SIZE": "an mpiexec (PMI)",
    "OMPI_COMM_WORLD_SIZE": "Open MPI's mpiexec",
    "MV2_COMM_WORLD_SIZE": "MVAPICH2's mpiexec",
}
# Numbers from here on are Slurm's names for what is no step of srun's: the batch script, say.
_NO_STEP = 0xFFFFFFF0


@dataclass(frozen=True)
class Launch:
    """One process of a launch: its rank, and the number of ranks started with it."""

    rank: int
    size: int

    @property
    def is_root(self) -> bool:
        return self.rank == 0


def launch() -> Launch:
    """Read the launcher's environment; a plain ``python -m hpc_sla`` is rank 0 of 1."""
    pairs = list(_VARIABLES)
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun's, and innermost where there are others
        pairs.insert(0, ("RANK", "WORLD_SIZE"))
    for rank, size in pairs:
        if rank in os.environ and size in os.environ:
            try:
                return Launch(int(os.environ[rank]), int(os.environ[size]))
            except ValueError:
                continue
    return Launch(0, 1)


def by_srun() -> bool:
    """Whether srun itself started this process, and not an mpiexec within its step."""
    mpiexec = ("HYDI_CONTROL_FD", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    return _step_tasks(os.environ) > 0 and not any(name in os.environ for name in mpiexec)


def sleep_where_crowded() -> None:
    """Before MPI starts: where a node has more ranks than cores, waiting ranks sleep. Local.

    Else they poll, and MPICH yields in a loop. On Linux 6.18 ranks that poll have been seen to keep
    the cores for half a minute and more, while the one that they waited for stood in the queue.
    """
    if int(os.environ.get("MPI_LOCALNRANKS", 1)) > (os.cpu_count() or 1):
        os.environ.setdefault("MPIR_CVAR_ENABLE_HEAVY_YIELD", "1")


def refuse_lone_ranks(size: int, library: str) -> None:
    """Refuse a launch of several processes that MPI knows nothing of. Local.

    Each would be a World of its own, do all the work, and write the same files.

    Parameters
    ----------
    size : int
        Ranks of MPI.COMM_WORLD. More of them than a launcher says is no mistake: an mpiexec within
        a step of srun's.
    library : str
        What MPI calls itself.

    Raises
    ------
    InputError
        Naming the launcher, and the one that serves.
    """
    for launcher, started in _started(os.environ):
        if started <= size:
            continue
        kind = "pmi2" if "Open MPI" not in library else "pmix"
        raise InputError(
            f"{launcher} started {started} processes, and for MPI ({library}) this is one of "
            f"{size}: each would do the whole work alone",
            field="launcher",
            remedy=f"Start with the mpiexec of that MPI library (mpiexec -n {started} ...), or "
            f"with srun --mpi={kind}; where each is to work alone, use hs.World.serial() or "
            "hs.World(comm=MPI.COMM_SELF)",
        )


def _started(environment: Mapping[str, str]) -> list[tuple[str, int]]:
    """Launchers that had a hand in this process, and how many they say they started."""
    found = []
    # Others than torchrun set these, too, for torch.distributed to read.
    if "RANK" in environment or "TORCHELASTIC_RUN_ID" in environment:
        elastic = "TORCHELASTIC_RUN_ID" in environment
        name = "torchrun" if elastic else "a launcher of torch.distributed's"
        found.append((name, _number(environment, "WORLD_SIZE")))
    found += [(name, _number(environment, size)) for size, name in _LAUNCHERS.items()]
    found.append(("srun", _step_tasks(environment)))
    return found


def _step_tasks(environment: Mapping[str, str]) -> int:
    """Tasks of the step of srun's that this process is in; 0 outside, as in a batch script."""
    if "SLURM_STEP_NUM_TASKS" in environment:
        return _number(environment, "SLURM_STEP_NUM_TASKS")
    step = environment.get("SLURM_STEP_ID", environment.get("SLURM_STEPID", ""))
    in_step = step.isdecimal() and int(step) < _NO_STEP
    # A batch script is task 0 of none.
    if in_step or _number(environment, "SLURM_PROCID") > 0:
        return _number(environment, "SLURM_NTASKS")
    return 0


def _number(environment: Mapping[str, str], name: str) -> int:
    with suppress(ValueError):
        return int(environment.get(name, 0))
    return 0
