"""What a run reads and writes: the input file, its right-hand side, the output. Serial."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch

from hpc_sla.cli.files import DEFAULT_PROBLEM, default_output
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.distributed.world import World
from hpc_sla.errors import InputError
from hpc_sla.sparse.from_hdf5 import read_rhs
from hpc_sla.storage.matrix_file import MatrixFile

RECTANGULAR = ("lsqr", "auto")
"""Methods that take a matrix with other than as many columns as rows."""


def needs_square(method: str | None) -> bool:
    """Whether `method` solves square systems only; None stands for a command that does."""
    return method is None or method.partition(":")[0] not in RECTANGULAR


@dataclass(frozen=True)
class Plan:
    """Settled on rank 0 before any rank reads a row.

    Attributes
    ----------
    path : str
        The matrix file.
    rhs : str
        The right-hand side in it.
    has_solution : bool
        Whether the file knows the solution for that right-hand side.
    output : str
        The result file; empty when the command writes none.
    n_rows : int
    digest : str
        The input's digest as its writer recorded it.
    method : str
        How it was partitioned.
    made : str
        The generator the file was made from just now; empty when it was there.
    """

    path: str
    rhs: str
    has_solution: bool
    output: str
    n_rows: int
    digest: str
    method: str
    made: str = ""


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
        The matrix file, or a generator, from which one is made in the current folder as for None:
        the default problem.
    rhs : str or None
        Its right-hand side; None for the only one, or ``ones``.
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
    if file is None or kind == "modes":
        # Rank 0 alone makes a problem: the others of `solve` need not load what that takes.
        from hpc_sla.cli.prepare import make_problem, names_generator

        if file is None or names_generator(file):
            made = file or DEFAULT_PROBLEM
            file = make_problem(made, ranks)
    with MatrixFile(file) as matrix:
        _check_shape(matrix, file, solve_method)
        name = "" if kind == "modes" else _choose_rhs(matrix, file, rhs, one_column)
        if output is None:
            output = default_output(file, kind, ranks)
        return Plan(
            path=file,
            rhs=name,
            has_solution=name in matrix.solution_names,
            output=output,
            n_rows=matrix.n_rows,
            digest=matrix.digest,
            method=str(matrix.attributes.get("partition_method", "")),
            made=made,
        )


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


def right_hand_side(plan: Plan, layout: RowLayout) -> torch.Tensor:
    """B of a plan, `[n_owned]`, or `[n_owned, k]` for several columns. **Collective.**"""
    b = read_rhs(plan.path, plan.rhs, layout)
    return b[:, 0].contiguous() if b.shape[1:] == (1,) else b
