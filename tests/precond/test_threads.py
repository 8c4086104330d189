"""One preconditioner used by several threads of a process: they take turns."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest
import torch

import hpc_sla as hs
from hpc_sla.precond import make_preconditioner
from hpc_sla.precond.workspace import Turns
from tests.methods import GENERAL
from tests.precond.amg.systems import poisson


@pytest.mark.parametrize("spec", [*GENERAL, "amg:coarse_size=20,cycle=W", "block_jacobi:factor=lu"])
def test_threads_get_what_one_gets(spec):
    A = hs.DSparseMatrix.from_scipy(poisson(24), hs.World.serial("cpu"))
    M = make_preconditioner(spec, A)
    rng = np.random.default_rng(0)
    residuals = [torch.from_numpy(rng.standard_normal(576)) for _ in range(3)]

    def both(r):
        return [how(r, torch.empty_like(r)).clone() for how in (M.apply, M.apply_transpose)]

    wanted = [both(r) for r in residuals]
    wrong: list[object] = []
    together = threading.Barrier(len(residuals))

    def work(i: int) -> None:
        try:
            together.wait(60)
            for _ in range(60):
                if not all(map(torch.equal, both(residuals[i]), wanted[i])):
                    wrong.append(i)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(residuals))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert wrong == []


def test_copies_have_turns_of_their_own():
    turns = Turns()
    for other in (copy.deepcopy(turns), pickle.loads(pickle.dumps(turns))):
        with turns, turns, other:
            assert other is not turns
