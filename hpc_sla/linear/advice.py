"""What to change where a solve did not converge."""

from __future__ import annotations

from hpc_sla.linear.info import SolveInfo

_FOR_AMG = (
    "amg with cycle=W, degree=3, another strength= (0 to 0.25, for anisotropy) or dtype=float64",
    "block_size= (and a near_nullspace) where nodes have several unknowns",
)
_SYMMETRIC = ("cg", "pipelined_cg", "minres")


def advice(info: SolveInfo) -> list[str]:
    """What to try, the likeliest first; nothing where the solve converged. Local.

    Parameters
    ----------
    info : SolveInfo
        Of `solve`.
    """
    if info.normal_residual is not None:  # lsqr
        return _least_squares(info)
    kind = info.precond.partition(":")[0]
    tries: list[str] = []
    if info.status == "not_finite":
        tries = ["values without NaN, infinities or sizes near the end of the dtype's range"]
    elif info.status == "stagnated":
        tries = ["a looser rtol", "a right-hand side in the range of a singular matrix"]
    elif info.status == "indefinite":
        tries = ["minres where the matrix is symmetric", "gmres where it is not"]
        if kind == "amg":
            tries.append("block_jacobi in place of amg, which is for definite matrices")
    elif info.status == "breakdown":
        tries = ["gmres, which breaks down for singular matrices only"]
    elif info.status == "max_iterations":
        tries = _too_slow(info.method, kind)
    return tries


def _too_slow(method: str, kind: str) -> list[str]:
    tries = []
    if method in _SYMMETRIC:
        tries.append("gmres or bicgstab if the matrix is not symmetric after all")
    elif method in ("gmres", "fgmres"):
        tries.append("a larger restart")
    if kind == "amg":
        tries += _FOR_AMG
    elif kind in ("block_jacobi", "additive_schwarz"):
        tries += [
            "amg for an elliptic problem",
            "factor=lu",
            "a larger overlap of additive_schwarz",
        ]
    else:
        tries += ["amg for an elliptic problem", "block_jacobi or additive_schwarz for others"]
    return [*tries, "a larger iteration limit"]


def _least_squares(info: SolveInfo) -> list[str]:
    tries = {
        "max_iterations": ["jacobi as preconditioner", "a larger iteration limit"],
        "stagnated": ["a looser rtol", "columns of like size (jacobi)"],
        "not_finite": ["values without NaN or infinities"],
    }
    return tries.get(info.status, [])
