"""The exceptions a user can meet. The command line turns `InputError` into exit code 2."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Protocol


def printable(text: str) -> str:
    r"""`text` with what a terminal would obey rather than show as escapes: ``\x1b``.

    Names and attributes come from files that anybody may have made.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class HpcSlaError(Exception):
    """Base class of every error this package raises on purpose."""


class InputError(HpcSlaError, ValueError):
    """Something the user gave cannot be used.

    Parameters
    ----------
    problem : str
        What is wrong, with the offending value in it.
    file : path, optional
        The file it was found in.
    field : str, optional
        The dataset, attribute or option it was found in.
    remedy : str, optional
        What to do about it, as an instruction.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | os.PathLike[str] | None = None,
        field: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = None if file is None else os.fspath(file)
        self.field = field
        self.remedy = remedy
        where = ": ".join(part for part in (self.file, field) if part)
        text = f"{where}: {problem}" if where else problem
        super().__init__(printable(f"{text}. {remedy.rstrip('.')}." if remedy else text))


class InputTypeError(InputError, TypeError):
    """Something of another type, dtype or device than what it goes with."""


class MissingDependencyError(InputError):
    """An optional package is needed for what was asked; the message says how to install it."""


class UnsuitableError(InputError):
    """A preconditioner that is not for this matrix, as its set-up finds: another one is needed."""


class SingularMatrixError(HpcSlaError):
    """A factorisation met a matrix that is singular, or not positive definite for Cholesky."""


class SolveOutcome(Protocol):
    """What an error says of a solve; `SolveInfo` has it all."""

    iterations: int
    method: str
    precond: str
    relative_residual: float

    @property
    def status(self) -> str: ...


class NotConvergedError(HpcSlaError):
    """A solve that was to raise (`throw=True`) did not converge.

    Attributes
    ----------
    info : SolveInfo or NonlinearInfo
        All there is to know of it; of several right-hand sides, of all.
    status : str
    x : torch.Tensor
        The best there is; per rank.
    """

    def __init__(self, what: str, info: SolveOutcome, meaning: str, x: object) -> None:
        self.info, self.status, self.x = info, info.status, x
        means = f" ({meaning})" if meaning else ""
        super().__init__(
            f"{what} did not converge: {info.status}{means} after {info.iterations} iterations of "
            f"{info.method}, relative residual {info.relative_residual:.1e}"
        )


class AdjointSolveError(HpcSlaError):
    """The solve for a derivative did not converge, so that there is none to return.

    Attributes
    ----------
    info : SolveInfo
        Of that solve.
    status : str
    """

    def __init__(self, info: SolveOutcome) -> None:
        self.info = info
        self.status = info.status
        super().__init__(
            f"the solve for a gradient (or a tangent) ended {info.status} after "
            f"{info.iterations} iterations of {info.method} + {info.precond}, relative residual "
            f"{info.relative_residual:.1e}. Give solve a larger adjoint_rtol or max_iterations, or "
            "another method or preconditioner."
        )


class DegenerateEigenvaluesError(HpcSlaError):
    """A gradient was wanted of eigenvalues that coincide, or of eigenvectors that go with them.

    Attributes
    ----------
    pairs : (int, int)
        Which, counted from 0 in the order they were returned in; the second may be the one after
        the last.
    gap : float
        Between the two eigenvalues.
    """

    def __init__(self, i: int, j: int, first: float, second: float) -> None:
        self.pairs, self.gap = (i, j), abs(first - second)
        super().__init__(
            f"the gradient of an eigenvalue, or an eigenvector, needs a gap to the others: those "
            f"of pairs {i} and {j}, {first:.6g} and {second:.6g}, differ by {self.gap:.1e}. Ask "
            "for all pairs of the cluster, and use what depends on the space they span or on the "
            "sum of their eigenvalues (or another symmetric function of all of them) only."
        )


class NotConvergedWarning(RuntimeWarning):
    """A solver stopped before its tolerance; the message names its status."""


class AccuracyWarning(RuntimeWarning):
    """A solve met its tolerance, but rows of small entries are far from solved: `info.hidden`."""


class PartialGradientWarning(RuntimeWarning):
    """The gradient of a parameter that ranks share is one rank's part of it, or of other values.

    Every rank then trains a parameter of its own. `world.replicate` and `world.replicate_module`
    are for those that all ranks hold.
    """


def warn(message: str, category: type[Warning]) -> None:
    """A warning at the user's own line, however deep in here or in torch it was met."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and _inside(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _inside(module: str) -> bool:
    return module.partition(".")[0] in ("hpc_sla", "torch")
