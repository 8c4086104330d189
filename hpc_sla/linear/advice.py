"""What to change where a solve did not converge, or hides something."""

from __future__ import annotations

from typing import Protocol

_FOR_AMG = (
    "block_size=, where nodes have several unknowns",
    "near_nullspace, for them: the rigid-body modes of elasticity",
    "amg with cycle=W, degree=3 or another strength= (0 to 0.25, for anisotropy)",
    "amg with dtype=float64",
)
_SYMMETRIC = ("cg", "pipelined_cg", "minres")
_MINIMAL = ("gmres", "fgmres")


class Ended(Protocol):
    """What is looked at of a `SolveInfo`."""

    @property
    def status(self) -> str: ...
    @property
    def converged(self) -> bool: ...

    method: str
    precond: str
    normal_residual: float | None
    hidden: bool
    at_rounding: bool
    symmetric: bool | None
    dtype: str


def advice(info: Ended) -> list[str]:
    """What to try, the likeliest first; nothing where all is well. Local.

    Parameters
    ----------
    info : SolveInfo
        Of `solve`.
    """
    if info.normal_residual is not None:  # lsqr
        return _least_squares(info)
    if info.converged:
        return [_HIDDEN] if info.hidden else []
    if info.status == "not_finite":
        return ["values without NaN, infinities or sizes near the end of the dtype's range"]
    method, kind = (spec.partition(":")[0] for spec in (info.method, info.precond))
    if info.at_rounding:
        tries = [_rounded(info)]
    elif info.symmetric is False and method in _SYMMETRIC:
        tries = [f"the matrix is not symmetric, as {method} needs it: gmres or bicgstab"]
    else:
        tries = _BY_STATUS[info.status](method, kind) if info.status in _BY_STATUS else []
        if info.status == "max_iterations" and info.symmetric is None and method in _SYMMETRIC:
            tries.insert(0, "gmres or bicgstab if the matrix is not symmetric after all")
    return [*tries, _HIDDEN] if info.hidden else tries


_HIDDEN = (
    "rows of very different scale: those with small entries are not solved yet, which the "
    "backward error shows and the relative residual hides. Scale them alike, or ask for a smaller "
    "rtol"
)


def _rounded(info: Ended) -> str:
    if info.dtype == "float32":
        return "float64: float32 allows no smaller residual with this matrix. Or a larger rtol"
    return "a larger rtol: rounding allows no smaller residual with this matrix"


def _stagnated(method: str, kind: str) -> list[str]:
    tries = []
    if method in _MINIMAL:
        tries.append("a larger restart, up to the number of rows")
        if method == "gmres":
            tries.append("fgmres, where the preconditioner is not quite linear (amg in float32)")
    if kind == "amg":
        tries.append("amg with dtype=float64")
    if method in _MINIMAL:
        tries.append("lsqr or a direct solve, for a matrix that gmres makes no way with")
    tries += ["a looser rtol", "a right-hand side in the range of a singular matrix"]
    others = {
        "pipelined_cg": "cg, whose rounding errors do not add up",
        "cg": "minres, where the matrix is not positive definite",
        "richardson": "a Krylov method with the same preconditioner: cg or gmres",
        "bicgstab": "gmres, whose residual never rises",
    }
    return [*tries, others[method]] if method in others else tries


def _indefinite(method: str, kind: str) -> list[str]:
    tries = ["gmres where the matrix is not symmetric"]
    if method != "minres":
        tries.insert(0, "minres where the matrix is symmetric")
    if kind == "amg":
        tries.append("block_jacobi in place of amg, which is for definite matrices")
    elif method == "minres":
        tries.insert(0, "another preconditioner: this one is not positive definite")
    return tries


def _breakdown(method: str, kind: str) -> list[str]:
    if method in _MINIMAL:
        return ["lsqr, for a matrix that may be singular"]
    return ["gmres, which breaks down for singular matrices only"]


def _diverged(method: str, kind: str) -> list[str]:
    tries = []
    if method == "richardson":
        tries.append("a Krylov method with the same preconditioner: cg or gmres")
    elif method not in _MINIMAL:
        tries.append("gmres, whose residual never rises")
    return [
        *tries,
        "a right-hand side in the range of a singular matrix",
        "a larger dtol, where the residual may rise for a while",
    ]


def _too_slow(method: str, kind: str) -> list[str]:
    tries = []
    if method in _MINIMAL:
        tries.append("a larger restart")
    elif method == "richardson":
        tries.append("a Krylov method with the same preconditioner: cg or gmres")
    if kind == "amg":
        tries += _FOR_AMG
    elif kind in ("block_jacobi", "additive_schwarz"):
        tries += ["amg for an elliptic problem", "factor=lu"]
        tries.append(
            "a larger overlap"
            if kind == "additive_schwarz"
            else "additive_schwarz, with a large overlap"
        )
    else:
        tries += ["amg for an elliptic problem", "block_jacobi or additive_schwarz for others"]
    return [*tries, "a larger iteration limit"]


_BY_STATUS = {
    "max_iterations": _too_slow,
    "stagnated": _stagnated,
    "indefinite": _indefinite,
    "breakdown": _breakdown,
    "diverged": _diverged,
}


def _least_squares(info: Ended) -> list[str]:
    tries = {
        "max_iterations": ["jacobi as preconditioner", "a larger iteration limit"],
        "stagnated": ["a looser rtol", "columns of like size (jacobi)"],
        "not_finite": ["values without NaN or infinities"],
    }
    return tries.get(info.status, [])
