"""What can be chosen about the multigrid method."""

from __future__ import annotations

from dataclasses import dataclass

from hpc_sla.errors import InputError
from hpc_sla.precond.amg.costs import costs_in
from hpc_sla.precond.options import check_choice, check_products, check_ratio

CYCLES = ("V", "W", "K")
SMOOTHERS = ("chebyshev", "jacobi", "l1_jacobi")
DTYPES = ("float32", "float64")
MOST_UNKNOWNS = 100
MOST_DENSE = 10_000
"""Rows of a dense inverse, of which each rank makes the whole: 800 MB, minutes."""


@dataclass(repr=False, eq=False)
class AmgOptions:
    """What `AMG` takes in a string, too: `"amg:cycle=W,dtype=float64"`.

    Attributes
    ----------
    cycle : {"V", "W", "K"}
        K: each coarse problem by up to two steps of flexible CG with the next level as
        preconditioner (Notay and Vassilevski, Numer. Linear Algebra Appl. 15, 2008). It is no
        linear operator: for fgmres, or cg where that converges.
    smoother : {"chebyshev", "jacobi", "l1_jacobi"}
        The same before and after the coarse correction, so that the cycle is symmetric.
    degree : int
        Of Chebyshev's polynomial; sweeps of the other two.
    eigenvalue_ratio : float
        Upper over lower end of Chebyshev's interval.
    strength : float
        Neighbours count as strongly connected where `|a_ij| > strength sqrt(|a_ii a_jj|)`
        (Vanek, Mandel and Brezina, Computing 56, 1996, equation 5.1).
    block_size : int
        Unknowns of a node, stored one after the other: 3 for elasticity in space, 1 for none that
        belong together; 0 for what the matrix says, or else for what its pattern shows.
    coarse_size : int
        A level of no more rows is the last, and solved by a dense inverse; so it may not have more
        than 10 000.
    rows_per_rank : int
        A level with fewer rows a rank than this goes to fewer ranks; 0: on how many each level
        goes on is decided by a model of what a cycle costs.
    costs : str
        What that model takes for a message, a byte, and an entry of a matrix, in seconds:
        "2e-6/1e-10/1e-9"; "typical": such numbers for CPUs or for GPUs; "measured": as found at the
        first use on these ranks. Numbers that are measured differ from run to run, and so may
        decisions, and the last bits of what comes out: `AMG.describe` says what was found, to be
        given in another run.
    balance : float
        No rank is given more entries, over all levels, than about so many times the mean. Levels
        that are worth less than their messages go to fewer ranks all the sooner the more it is.
    max_levels : int
    dtype : {"float32", "float64"}
        Of the cycle. The Krylov method around it keeps its own.
    """

    cycle: str = "V"
    smoother: str = "chebyshev"
    degree: int = 2
    eigenvalue_ratio: float = 4.4
    strength: float = 0.04
    block_size: int = 0
    coarse_size: int = 500
    rows_per_rank: int = 0
    costs: str = "typical"
    balance: float = 1.5
    max_levels: int = 25
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Raise InputError for a value out of range."""
        for name, choices in (("cycle", CYCLES), ("smoother", SMOOTHERS), ("dtype", DTYPES)):
            check_choice("amg", name, getattr(self, name), choices)
        check_products("amg", self.degree)
        if self.block_size < 0:
            raise InputError(f"{self.block_size} is below 0", field="amg:block_size")
        for name, least in (("coarse_size", 1), ("rows_per_rank", 0), ("max_levels", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{getattr(self, name)} is below {least}", field=f"amg:{name}")
        costs_in(self.costs)
        if not self.balance > 1:
            raise InputError(f"{self.balance} is not a number above 1", field="amg:balance")
        if self.block_size > MOST_UNKNOWNS:
            raise InputError(
                f"{self.block_size} unknowns of a node, more than {MOST_UNKNOWNS}",
                field="amg:block_size",
                remedy="Leave it out: each unknown costs the coarse levels a near-nullspace vector",
            )
        check_ratio("amg", self.eigenvalue_ratio)
        if not 0 <= self.strength < 1:
            raise InputError(f"{self.strength} is not in [0, 1)", field="amg:strength")
