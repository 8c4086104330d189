"""Fixtures shared by all tests. Tests marked `mpi` run on every rank of an mpiexec."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zlib
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.shares import shared

# `cuda` runs the collective tests on this machine's GPU.
DEVICE = os.environ.get("HPC_SLA_TEST_DEVICE", "cpu")


MANY = 3
"""Cases of one test up to which all of them run on 1 rank and on 2."""

PRODUCT = 8
"""Cases of one test beyond which each of them runs on one rank count alone."""

COLLECTIVE = re.compile(r"^pytestmark = pytest\.mark\.mpi$", re.MULTILINE)
"""In a file whose every test is."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Without mpiexec the collective tests run on one rank: pytest-mpi would skip them."""
    global started_for_mpi
    started_for_mpi = config.option.with_mpi
    config.option.with_mpi = True


def pytest_ignore_collect(collection_path, config):
    """Files without a test for this phase are not read: every rank would spend seconds on them."""
    wanted = config.option.markexpr
    if wanted not in ("mpi", "not mpi") or not collection_path.name.startswith("test_"):
        return None
    text = collection_path.read_text(encoding="utf-8")
    needless = "mark.mpi" not in text if wanted == "mpi" else COLLECTIVE.search(text)
    return True if needless else None


def pytest_collection_modifyitems(config, items):
    """Leave out what HPC_SLA_TEST_QUICK, _SAMPLED or _SHARE leaves to others."""
    kept = list(items)
    if "HPC_SLA_TEST_QUICK" in os.environ:
        kept = chosen(kept, quick(items))
    elif "HPC_SLA_TEST_SAMPLED" in os.environ and started_for_mpi:
        kept = chosen(kept, sampled(items))
    if "HPC_SLA_TEST_SHARE" in os.environ:
        kept = shared(kept, os.environ["HPC_SLA_TEST_SHARE"])
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=chosen(items, set(items) - set(kept)))
    items[:] = kept


def chosen(items, keep):
    """In the order that they have."""
    return [item for item in items if item in keep]


def cases_of_tests(items):
    """The cases of each test, in an order of no pattern in the parameters, the same everywhere."""
    cases = defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item)
    for tests in cases.values():
        tests.sort(key=lambda item: zlib.crc32(item.nodeid.encode()))
    return cases.values()


def quick(items):
    """One case of each test that is not slow."""
    return {cases[0] for cases in cases_of_tests(items) if not cases[0].get_closest_marker("slow")}


def sampled(items):
    """Of tests of many cases some on 2 ranks and on one other rank count, the others on one alone.

    What one more rank count can show of each (empty ranks, several neighbours) shows in some of a
    product of parameters as well: half on 1 rank, where a case takes least, a quarter on 3 and a
    quarter on 4; of tests marked `several` half on 3 and half on 4. Of the cases beyond `PRODUCT`
    half run on 2 ranks and half on these others. Of tests of two or three cases all run on 1 rank
    and on 2, and each on 3 or on 4; those marked `several`, and tests of one case, on all four.
    Only where HPC_SLA_TEST_SAMPLED says that all four run, as scripts/test.sh does.
    """
    from mpi4py import MPI

    size = min(MPI.COMM_WORLD.size, 4)
    kept = set(items)
    for cases in cases_of_tests(items):
        several = cases[0].get_closest_marker("several")
        turns = (3, 4) if several else (1, 3, 1, 4)
        for i, case in enumerate(cases):
            if len(cases) == 1 or (several and len(cases) <= MANY):
                continue
            if len(cases) <= MANY:
                counts = {1, 2, 3 + i % 2}
            elif i < PRODUCT:
                counts = {2, turns[i % len(turns)]}
            else:
                counts = {turns[i // 2 % len(turns)] if i % 2 else 2}
            if size not in counts:
                kept.remove(case)
    return kept


@pytest.fixture(scope="session")
def world():
    """COMM_WORLD over MPI."""
    import hpc_sla as hs

    world = hs.World(device=DEVICE, transport="mpi")
    if DEVICE != "cpu":
        import torch

        torch.set_default_device(world.device)
    return world


@pytest.fixture(scope="session")
def torch_world(world):
    """COMM_WORLD over torch.distributed."""
    import hpc_sla as hs

    if DEVICE == "cpu":
        return hs.World(device="cpu", transport="gloo")
    if not world.own_gpus():
        pytest.skip("nccl needs a GPU for each rank")
    return hs.World(device=DEVICE, transport="nccl")


@pytest.fixture
def folder(world):
    """One folder for all ranks."""
    path = world.on_root(lambda: tempfile.mkdtemp(prefix="hpc_sla-"))
    yield Path(path)
    world.barrier()
    if world.rank == 0:
        shutil.rmtree(path)


@pytest.fixture(params=["mpi", "torch.distributed"])
def any_world(request, world):
    """Each transport in turn."""
    return world if request.param == "mpi" else request.getfixturevalue("torch_world")
