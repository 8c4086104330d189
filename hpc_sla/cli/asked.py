"""What was asked of each command, as one object: see `hpc_sla.cli.options`. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass

from hpc_sla.linear.choices import DTOL


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """`world_options` and `run_options`: of every command that runs on all ranks."""

    device: str
    transport: str
    log_file: str | None
    log_all_ranks: bool
    profile: bool
    as_json: bool


@dataclass(frozen=True, kw_only=True)
class GuardOptions(RunOptions):
    """`guard_options` besides: of those that may be told to end, or may stall."""

    checkpoint: str | None
    checkpoint_every: str
    checkpoint_local: str | None
    checkpoint_copy_every: int
    resume: bool
    stall_timeout: float | None


@dataclass(frozen=True, kw_only=True)
class SolverOptions:
    """`solver_options`. rtol is None until the matrix's dtype is known (see `run.solver`)."""

    method: str
    precond: str
    rtol: float | None
    atol: float
    max_iterations: int | None
    rhs: str | None
    dtol: float = DTOL


@dataclass(frozen=True, kw_only=True)
class BenchOptions(RunOptions):
    """What was asked of `bench`."""

    file: str
    method: str
    precond: str
    repeats: int
    rtol: float | None
    max_iterations: int | None
    memory: bool
    rhs: str | None


@dataclass(frozen=True, kw_only=True)
class EigshOptions(GuardOptions):
    """What was asked of `eigsh`."""

    file: str | None
    k: int
    which: str
    mass: str | None
    precond: str
    tol: float | None
    max_iterations: int | None
    guard: int | None
    output: str | None


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What was asked of `export`."""

    result: str
    output: str
    vector: str | None
    matrix: str | None
    coordinates: str | None
    mesh: str | None
    rows: str | None


@dataclass(frozen=True, kw_only=True)
class PlotOptions:
    """What was asked of `plot`."""

    files: tuple[str, ...]
    output: str
    kind: str | None
    part: int
    title: str | None


@dataclass(frozen=True, kw_only=True)
class GradOptions(SolverOptions, RunOptions):
    """What was asked of `grad`."""

    file: str
    loss: str
    target: str | None
    adjoint_rtol: float | None
    check: bool
    output: str | None


@dataclass(frozen=True, kw_only=True)
class NewtonOptions(GuardOptions):
    """What was asked of `newton`."""

    problem: str
    listing: bool
    method: str
    jacobian: str
    linear_method: str
    precond: str
    precond_lag: int | None
    forcing: float | None
    rtol: float | None
    atol: float
    max_iterations: int | None
    output: str | None


@dataclass(frozen=True, kw_only=True)
class PartitionOptions:
    """What was asked of `partition`."""

    source: str
    output: str
    parts: int
    method: str
    rhs: tuple[str, ...]
    coordinates: str | None
    block_size: int | None
    near_nullspace: str | None


@dataclass(frozen=True, kw_only=True)
class SolveOptions(SolverOptions, GuardOptions):
    """What was asked of `solve`."""

    file: str | None
    output: str | None
    explain: bool


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(SolverOptions, RunOptions):
    """What was asked of `verify`."""

    file: str
    against: str | None
