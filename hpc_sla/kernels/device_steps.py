"""Which methods' steps Triton does on a device: each is tried on one row before it is relied on.

Such a step leaves all scalars on the device and tests by itself whether it goes on. What it does is
in `fused.py` (cg), `device_bicgstab.py`, `device_minres.py` and `device_pipelined_cg.py`, each
beside its oracle in torch operations.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache

import torch

from hpc_sla.errors import warn
from hpc_sla.kernels import device_bicgstab, device_minres, device_pipelined_cg, fused, native


def serves(r: torch.Tensor, step: str) -> bool:
    """Whether a method's step is done so on vectors like `r`: "cg", "bicgstab" and so on. Local."""
    cuda = r.device.type == "cuda" and r.dim() == 1 and r.dtype in native.DTYPES
    return cuda and works(step, r.device)


@cache
def works(step: str, device: torch.device) -> bool:
    """Whether Triton does it there.

    It compiles a kernel where it is first launched, which takes a C compiler and a driver that it
    knows: where that fails torch does the work.
    """
    if os.environ.get("HPC_SLA_NATIVE") == "0" or importlib.util.find_spec("triton") is None:
        return False
    try:
        # They register what is in Triton, which is optional.
        from hpc_sla.kernels import (  # noqa: F401
            triton_bicgstab,
            triton_minres,
            triton_passes,
            triton_pipelined_cg,
        )

        _TRIALS[step](device)
    except Exception as error:  # of Triton, its compiler, its driver: whatever they raise
        if device not in _told:  # what ails one step ails the others
            _told.add(device)
            warn(
                f"Triton does not work on {device} ({type(error).__name__}: {error}): torch's own "
                "operations take its place, more slowly. HPC_SLA_NATIVE=0 asks for them in silence",
                RuntimeWarning,
            )
        return False
    return True


_told: set[torch.device] = set()


def _reduce(sums: torch.Tensor) -> None:
    """One rank's sum over ranks, so that what several need is tried too."""


def _left(device: torch.device, numbers: int, row: int) -> fused.Left:
    live = torch.ones((), dtype=torch.bool, device=device)
    return fused.Left(torch.ones(numbers, device=device), live, torch.ones(row, device=device))


def _vectors(device: torch.device, count: int) -> list[torch.Tensor]:
    return list(torch.ones((count, 1), device=device).unbind())


def _numbers(device: torch.device, count: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    ones = list(torch.ones(count, device=device).unbind())
    return ones, torch.ones((), dtype=torch.bool, device=device)


def _cg(device: torch.device) -> None:
    x, r, p, q = _vectors(device, 4)
    (curvature, rho, target), live = _numbers(device, 3)
    left = _left(device, 2, 3)
    known = curvature, rho, live, target
    fused.device_step(x, r, p, q, x, *known, left, _reduce, lambda: q)


def _bicgstab(device: torch.device) -> None:
    vectors = device_bicgstab.BiCGStabVectors(*_vectors(device, 9))
    (slope, rho, square, target, ts, tt), live = _numbers(device, 6)
    known = device_bicgstab.BiCGStabScalars(slope, rho, square, live, target, 1e-30)
    device_bicgstab.half_step(vectors, known)
    device_bicgstab.full_step(vectors, known, ts, tt, _left(device, 1, 4), _reduce)


def _minres(device: torch.device) -> None:
    vectors = device_minres.MinresVectors(*_vectors(device, 9))
    (zaz, gamma, gamma_old, *rest, rr, target), live = _numbers(device, 10)
    eta, c, c_old, s, s_old = rest
    lanczos, rotations = (zaz, gamma, gamma_old), (eta, c, c_old, s, s_old)
    known = device_minres.MinresScalars(*lanczos, *rotations, rr, live, target)
    device_minres.minres_step(vectors, known, _left(device, 8, 3), _reduce, lambda: vectors.q)


def _pipelined_cg(device: torch.device) -> None:
    *vectors, inverse = _vectors(device, 11)
    (rho, delta, rho_old, alpha_old, target), live = _numbers(device, 5)
    numbers = rho, delta, rho_old, alpha_old
    known = device_pipelined_cg.PipelinedScalars(*numbers, live, target)
    sums = device_pipelined_cg.pipelined_pass(tuple(vectors), inverse, known)
    total = fused.totals(inverse, sums, _reduce)
    device_pipelined_cg.pipelined_end(total, known, _left(device, 5, 4))


_TRIALS = {"cg": _cg, "bicgstab": _bicgstab, "minres": _minres, "pipelined_cg": _pipelined_cg}
