"""What a solve that did not converge is told to try."""

from __future__ import annotations

import pytest

from hpc_sla.linear import SolveInfo
from hpc_sla.linear.advice import advice
from hpc_sla.linear.info import summarise


def _info(status, method, precond, normal=None):
    return SolveInfo(status, 10, 1.0, 1.0, [], 0.0, method, precond, "", normal)


@pytest.mark.parametrize(
    ("info", "first", "also"),
    [
        (_info("max_iterations", "cg", "amg:cycle=V"), "gmres", ["cycle=W", "near_nullspace"]),
        (_info("max_iterations", "cg", "jacobi"), "gmres", ["amg for an elliptic"]),
        (_info("max_iterations", "gmres", "block_jacobi:factor=ilu0"), "a larger restart", ["lu"]),
        (_info("indefinite", "cg", "amg"), "minres", ["definite matrices"]),
        (_info("indefinite", "cg", "none"), "minres", ["gmres"]),
        (_info("breakdown", "bicgstab", "none"), "gmres", []),
        (_info("stagnated", "cg", "none"), "a looser rtol", ["range"]),
        (_info("not_finite", "cg", "none"), "values without NaN", []),
        (_info("max_iterations", "lsqr", "none", 1.0), "jacobi", []),
    ],
)
def test_the_likeliest_comes_first(info, first, also):
    tries = advice(info)
    assert tries[0].startswith(first) and all(any(part in one for one in tries) for part in also)


def test_nothing_where_it_converged():
    assert advice(_info("converged", "cg", "jacobi")) == []


def test_columns_are_at_rounding_where_they_are():
    columns = [SolveInfo("converged", 1, 1.0, 1.0, [1.0]) for _ in range(2)]
    assert not summarise(columns, False).at_rounding
    columns[1] = SolveInfo("stagnated", 1, 1.0, 1.0, [1.0], at_rounding=True)
    assert summarise(columns, False).at_rounding
    columns[0].status = "stagnated"
    assert not summarise(columns, False).at_rounding
