"""What many ranks read of a file beside what one process does."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.messages.peers import Peers
from hpc_sla.partition.offsets import even_offsets
from hpc_sla.storage import matrix_market_lines
from hpc_sla.storage.importers import read_source
from hpc_sla.storage.parallel import market_lines
from hpc_sla.storage.parallel.source import read_source_rows, read_vector_rows
from tests.collective import everywhere


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few lines, so that a small file has many."""
    monkeypatch.setattr(market_lines, "BLOCK", 100)
    monkeypatch.setattr(market_lines, "_SCAN", 7)
    monkeypatch.setattr(matrix_market_lines, "BLOCK", 100)


def cut_for(world):
    return lambda shape, block_size=None: even_offsets(shape[0], world.size)


def together(world, path, cut=None):
    """The whole on every rank: arrays of what `read_source` has in its fields."""
    with Peers(world.comm) as peers:
        mine = read_source_rows(peers, path, cut or cut_for(world))
    matrix = mine.rows.matrix
    gathered = world.comm.allgather
    counts = np.concatenate(gathered(np.diff(matrix.indptr)))
    found = {
        "counts": counts.astype(np.int64),
        "indices": np.concatenate(gathered(matrix.indices)).astype(np.int64),
        "data": np.concatenate(gathered(matrix.data)),
        "shape": mine.rows.shape,
        "block_size": mine.block_size,
    }
    for name in ("coordinates", "near_nullspace"):
        part = getattr(mine, name)
        found[name] = None if part is None else np.concatenate(gathered(part))
    for group in ("rhs_by_name", "solution_by_name"):
        for name, part in getattr(mine, group).items():
            found[f"{group}/{name}"] = np.concatenate(gathered(part))
    return found


def alone(path):
    whole = read_source(path)
    return {
        "counts": np.diff(whole.matrix.indptr).astype(np.int64),
        "indices": whole.matrix.indices.astype(np.int64),
        "data": whole.matrix.data,
        "shape": whole.matrix.shape,
        "block_size": whole.block_size,
        "coordinates": whole.coordinates,
        "near_nullspace": whole.near_nullspace,
        **{f"rhs_by_name/{name}": b for name, b in whole.rhs_by_name.items()},
        **{f"solution_by_name/{name}": x for name, x in whole.solution_by_name.items()},
    }


def differences(one, other):
    """Names of what is not the same, to the last bit."""
    if one.keys() != other.keys():
        return [f"{sorted(one)} and {sorted(other)}"]
    return [name for name in one if not same(one[name], other[name])]


def same(one, other):
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    return one is other or one == other


def on_root(world, make):
    world.on_root(lambda: make() and None)


def repeated(seed, shape, entries):
    """Entries in no order, many of them given more than once."""
    rng = np.random.default_rng(seed)
    rows, cols = (rng.integers(0, n, entries) for n in shape)
    return sp.coo_array((rng.standard_normal(entries), (rows, cols)), shape=shape)


def rows_of_vector(world, path, cut=None):
    with Peers(world.comm) as peers:
        mine = read_vector_rows(peers, path, cut or cut_for(world))
    return np.concatenate(world.comm.allgather(mine))


def message(read):
    try:
        read()
    except InputError as error:
        return str(error)
    return ""


def said_alike(world, one, other):
    """What all ranks raise is one message, that of a process alone."""
    found = message(one)
    return everywhere(world, found and found == message(other)), found
