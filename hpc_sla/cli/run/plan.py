"""What a run reads and writes: the input, its right-hand side, the output. Serial."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from hpc_sla.cli.files import (
    DEFAULT_PROBLEM,
    MANUFACTURED,
    ONES,
    default_output,
    names_generator,
)
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.problems import RHS_KINDS, make
from hpc_sla.problems.system import NamedSystem
from hpc_sla.storage.matrix_file import MatrixFile

RECTANGULAR = ("lsqr", "lsmr", "auto")
"""Methods that take a matrix with other than as many columns as rows."""

_WARM_UP = "poisson2d:n=48"


def needs_square(method: str | None) -> bool:
    """Whether `method` solves square systems only; None stands for a command that does."""
    return method is None or method.partition(":")[0] not in RECTANGULAR


@dataclass(frozen=True)
class Plan:
    """Settled on rank 0 before any rank reads a row.

    Attributes
    ----------
    path : str
        The matrix file, or the text of a generator.
    rhs : str
        The right-hand side in it.
    has_solution : bool
        Whether the solution for that right-hand side is known.
    output : str
        The result file; empty when the command writes none.
    n_rows : int
    digest : str
        The input's digest as its writer recorded it; empty for a generator.
    method : str
        How it was partitioned.
    made : str
        The generator the file was made from just now; empty when it was there.
    generated : bool
        Whether there is no file: each rank makes its own rows.
    file : MatrixFile or None
        The matrix file: open on rank 0, with its header on the others.
    """

    path: str
    rhs: str
    has_solution: bool
    output: str
    n_rows: int
    digest: str
    method: str
    made: str = ""
    generated: bool = False
    file: MatrixFile | None = None

    @property
    def system(self) -> NamedSystem:
        """What there is to read or to make."""
        return NamedSystem(self.path, self.rhs, self.generated, self.file)

    @property
    def input(self) -> str:
        """What results say they were made from."""
        return self.path if self.generated else os.path.abspath(self.path)


def plan_run(
    file: str | None,
    rhs: str | None,
    output: str | None,
    ranks: int,
    solve_method: str | None = None,
    kind: str = "result",
    one_column: bool = False,
) -> Plan:
    """Look at everything that can be wrong before the long part of a run begins.

    Parameters
    ----------
    file : str or None
        The matrix file, or a generator, of which each rank makes its own rows. None for the
        default problem, of which a file is made in the current folder.
    rhs : str or None
        Its right-hand side; None for the only one, or ``ones``, or what suits a generator.
    output : str or None
        The result file; None for ``<stem>.<kind>.h5`` in the current folder, "" for none.
    ranks : int
        Parts of the default problem.
    solve_method : str or None
        Which solver is to run; None for a command that needs a square matrix with any.
    kind : str
        What is written: ``result``, or ``modes``, for which no right-hand side is needed.
    one_column : bool
        Refuse a right-hand side of several columns.
    """
    made = ""
    if file is None:
        # Rank 0 alone makes a problem: the others of `solve` need not load what that takes.
        from hpc_sla.cli.prepare import make_problem

        made, file = DEFAULT_PROBLEM, make_problem(DEFAULT_PROBLEM, ranks)
    elif names_generator(file):
        return _plan_generated(file, rhs, output, ranks, kind)
    matrix = MatrixFile(file)
    try:
        _check_shape(matrix, file, solve_method)
        name = "" if kind == "modes" else _choose_rhs(matrix, file, rhs, one_column)
        if output is None:
            output = default_output(file, kind, ranks)
    except BaseException:
        matrix.close()
        raise
    return Plan(
        path=file,
        rhs=name,
        has_solution=name in matrix.solution_names,
        output=output,
        n_rows=matrix.n_rows,
        digest=matrix.digest,
        method=str(matrix.attributes.get("partition_method", "")),
        made=made,
        file=matrix,
    )


def _plan_generated(spec: str, rhs: str | None, output: str | None, ranks: int, kind: str) -> Plan:
    """The plan of a generator's problem, which is square."""
    from hpc_sla.cli.prepare import check_size  # as above

    problem = make(spec)
    check_size(spec, problem.n_rows, ranks)
    name = "" if kind == "modes" else rhs or problem.default_rhs
    if name not in ("", *RHS_KINDS):
        raise InputError(
            f"there is no right-hand side {name!r}",
            file=spec,
            field="--rhs",
            remedy=f"Choose one of {', '.join(RHS_KINDS)}, or give a file.",
        )
    if output is None:
        output = default_output(spec, kind, ranks)
    known = name == MANUFACTURED
    return Plan(spec, name, known, output, problem.n_rows, "", "contiguous", generated=True)


def plan_bench(world: World, file: str, rhs: str | None) -> tuple[Plan, Plan]:
    """The plans of what is measured, and of a small problem to warm up with. **Collective.**"""
    asked = (file, rhs), (_WARM_UP, ONES)
    plans = world.on_root(
        lambda: [plan_run(*one, "", world.size, one_column=True) for one in asked]
    )
    return plans[0], plans[1]


def say_what_was_made(plan: Plan, world: World) -> None:
    """Where a generator's problem went, on stderr. Local."""
    if plan.made and world.rank == 0:
        print(f"made {plan.path} from {plan.made}: METIS, {world.size} part(s)", file=sys.stderr)


def _check_shape(matrix: MatrixFile, file: str, method: str | None) -> None:
    if matrix.square or not needs_square(method):
        return
    shape = f"the matrix is {matrix.n_rows} x {matrix.n_cols}"
    if method is None:
        raise InputError(
            f"{shape}, this command needs a square one",
            file=file,
            remedy="Give a file with a square matrix.",
        )
    raise InputError(
        f"{shape}, {method} needs a square one",
        file=file,
        field="--method",
        remedy=f"Choose --method {' or '.join(RECTANGULAR)}, for least squares.",
    )


def _choose_rhs(matrix: MatrixFile, file: str, asked: str | None, one_column: bool) -> str:
    names = matrix.rhs_names
    if asked is None:
        if len(names) == 1:
            asked = names[0]
        elif "ones" in names:
            asked = "ones"
        else:
            there = f"Choose one with --rhs: {', '.join(names)}."
            raise InputError(
                "has several right-hand sides" if names else "has no right-hand side",
                file=file,
                field="/rhs",
                remedy=there if names else "Partition the matrix again with --rhs.",
            )
    # Reading nothing of it says whether it is there, with the names that are.
    shape = matrix.read_rhs(asked, 0, 0).shape
    if shape[1:] not in ((), (1,)) and (one_column or shape[1] == 0):
        raise InputError(
            f"has {shape[1]} columns" + (", one is solved for at a time" if one_column else ""),
            file=file,
            field=f"/rhs/{asked}",
            remedy="Store each column under a name of its own.",
        )
    return asked
