"""How linear systems with a Jacobian are to be solved: what the user asks for, and its checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hpc_sla.distributed.arguments import check_count
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.errors import InputError
from hpc_sla.linear.method import Method
from hpc_sla.linear.methods import make_method
from hpc_sla.nonlinear.choices import JACOBIANS, PRODUCTS
from hpc_sla.precond import check_known, needs_matrix
from hpc_sla.sparse.matrix import DSparseMatrix


@dataclass
class Settings:
    """How linear systems with the Jacobian are solved.

    Attributes
    ----------
    jacobian : str or callable(u) -> DSparseMatrix
        One of `JACOBIANS`, "auto", or the user's.
    pattern : DSparseMatrix or None
    products : str
        One of `PRODUCTS`.
    linear_method : str or None
        None for what suits.
    precond : Any
        As `solve` takes it; "auto" for what suits.
    lag : int or None
        A preconditioner is set up every so many Newton steps; 0 for once, None for when it pays.
    max_iterations : int or None
        Of one linear solve.
    columns : int
        Unknowns at each point.
    """

    jacobian: Any
    pattern: DSparseMatrix | None
    products: str
    linear_method: str | Method | None
    precond: Any
    lag: int | None
    max_iterations: int | None
    columns: int = 1

    def check(self) -> Method | None:
        """Raise InputError for what cannot work; the linear method where one is named. Local."""
        if not callable(self.jacobian) and self.jacobian not in ("auto", *JACOBIANS):
            raise InputError(
                f"there is no Jacobian {self.jacobian!r}",
                field="jacobian",
                remedy=f"Choose auto, {', '.join(JACOBIANS)}, or pass a function of (u, *theta)",
            )
        if self.products not in PRODUCTS:
            raise InputError(
                f"there are no products {self.products!r}",
                field="jvp",
                remedy=f"Choose one of {', '.join(PRODUCTS)}",
            )
        if self.pattern is None and self.jacobian == "coloured":
            raise InputError(
                "a coloured Jacobian needs to know where it has entries",
                field="pattern",
                remedy="Pass a DSparseMatrix with (at least) those entries",
            )
        check_known(self.precond, "auto")
        if self.jacobian == "matrix_free" and not self.has_matrix and self.named:
            raise self.no_entries()
        if self.lag is not None:
            check_count(self.lag, "precond_lag")
        if self.max_iterations is not None:
            check_count(self.max_iterations, "linear_max_iterations", least=1)
        return None if self.linear_method in (None, "auto") else make_method(self.linear_method)

    def check_pattern(self, layout: RowLayout) -> None:
        """Raise InputError for a pattern that does not fit these unknowns. Local."""
        if self.pattern is not None:
            check_matrix(self.pattern, layout, None, "pattern")

    @property
    def has_matrix(self) -> bool:
        """Whether the entries of the Jacobian can be had, without a guess."""
        return callable(self.jacobian) or self.pattern is not None

    @property
    def named(self) -> bool:
        """Whether a preconditioner is asked for that needs entries."""
        takes = getattr(self.precond, "takes", "entries")
        named = needs_matrix(self.precond) and str(self.precond) not in ("auto", "none")
        return named and takes != "anything"

    def no_entries(self) -> InputError:
        return InputError(
            f"{self.precond} needs the entries of the Jacobian",
            field="precond",
            remedy="Pass pattern= (a DSparseMatrix with entries where the Jacobian has them), "
            'or a jacobian function, or choose "none"',
        )


def check_matrix(
    matrix: Any, layout: RowLayout, dtype: torch.dtype | None, field: str
) -> DSparseMatrix:
    """`matrix`, if it is a square one on these rows. Local."""
    if not isinstance(matrix, DSparseMatrix):
        raise InputError(f"a {type(matrix).__name__} is not a DSparseMatrix", field=field)
    if matrix.columns is not matrix.layout or not matrix.layout.fits(layout):
        raise InputError(
            f"a {matrix.shape[0]} x {matrix.shape[1]} matrix does not have the layout of the "
            f"{layout.n_global} unknowns in its rows and columns",
            field=field,
            remedy="Make it with the layout of u: from_scipy and from_coo take layout=",
        )
    if dtype is not None and matrix.dtype != dtype:
        raise InputError(f"{matrix.dtype} does not go with unknowns of {dtype}", field=field)
    return matrix
