"""Which neighbours count: the strength of connection, and the matrix without the weak ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.halo import HaloPlan
from hpc_sla.layout import RowLayout
from hpc_sla.matrix import DSparseMatrix
from hpc_sla.precond.amg.blocks import Blocks, csr


@dataclass(frozen=True)
class Graph:
    """Strong connections between this rank's nodes, and to those of others (per rank).

    Attributes
    ----------
    layout : RowLayout
        Of the nodes.
    plan : HaloPlan
        Of values at nodes.
    blocks : Blocks
        The strong entries between nodes. Values are their sizes; diagonal entries may be there.
    """

    layout: RowLayout
    plan: HaloPlan
    blocks: Blocks


def node_graph(A: DSparseMatrix, blocks: Blocks, block_size: int) -> Graph:
    """All connections of A between nodes of `block_size` unknowns. **Collective.**

    Between two nodes of several unknowns stands the Frobenius norm of their block.
    """
    if block_size == 1:
        return Graph(A.layout, A.pattern.plan, blocks)
    layout = RowLayout(A.world, A.layout.offsets // block_size)
    unknowns = A.pattern.plan.halo
    nodes = np.unique(unknowns // block_size)
    of_halo = np.searchsorted(nodes, unknowns // block_size)
    n = layout.n_owned
    owned = _condense(blocks.owned, np.arange(n * block_size) // block_size, (n, n), block_size)
    spread = blocks.spread(blocks.halo)
    halo = _condense(spread, of_halo, (n, len(nodes)), block_size)
    boundary = np.flatnonzero(np.diff(halo.indptr)).astype(np.int32)
    return Graph(layout, HaloPlan(layout, nodes), Blocks(owned, halo[boundary], boundary))


def _condense(
    matrix: sp.csr_matrix, node_of_column: np.ndarray, shape: tuple[int, int], block_size: int
) -> sp.csr_matrix:
    rows = np.repeat(np.arange(matrix.shape[0]) // block_size, np.diff(matrix.indptr))
    columns = node_of_column[matrix.indices]
    squares = sp.coo_matrix((matrix.data.astype(np.float64) ** 2, (rows, columns)), shape=shape)
    result = squares.tocsr()
    result.data = np.sqrt(result.data)
    return result


def strong(graph: Graph, threshold: float) -> Graph:
    """The connections with `|a_ij| > threshold sqrt(|a_ii a_jj|)`. **Collective.**

    Vanek, Mandel and Brezina, Computing 56 (1996), equation 5.1. Diagonal entries stay.
    """
    if threshold == 0:
        return graph
    blocks = graph.blocks
    here = torch.from_numpy(np.abs(blocks.owned.diagonal()))
    there = graph.plan.exchange(here.to(graph.layout.world.device)).cpu().numpy()
    here_root, there_root = np.sqrt(here.numpy()), np.sqrt(there)
    owned = _keep_large(blocks.owned, here_root, here_root, threshold)
    halo = _keep_large(blocks.halo, here_root[blocks.boundary], there_root, threshold)
    return Graph(graph.layout, graph.plan, Blocks(owned, halo, blocks.boundary))


def _keep_large(
    matrix: sp.csr_matrix, left: np.ndarray, right: np.ndarray, threshold: float
) -> sp.csr_matrix:
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int32), np.diff(matrix.indptr))
    keep = np.abs(matrix.data) > threshold * left[rows] * right[matrix.indices]
    # A row's own entry stays whatever its neighbours are; only a square block has one.
    if matrix.shape[0] == matrix.shape[1]:
        keep |= rows == matrix.indices
    indptr = np.concatenate([[0], np.cumsum(keep)])[matrix.indptr].astype(np.int32)
    return csr(matrix.data[keep], matrix.indices[keep], indptr, *matrix.shape)


def filtered(blocks: Blocks, strong_blocks: Blocks) -> Blocks:
    """A with its weak entries moved onto the diagonal, which keeps its row sums. Local.

    Parameters
    ----------
    blocks, strong_blocks : Blocks
        A, and the entries of it that are strong, the diagonal's among them.
    """
    if strong_blocks is blocks:
        return blocks
    lost = _row_sums(blocks.owned) - _row_sums(strong_blocks.owned)
    lost[blocks.boundary] += _row_sums(blocks.halo) - _row_sums(strong_blocks.halo)
    owned = strong_blocks.owned
    rows = np.repeat(np.arange(owned.shape[0], dtype=np.int32), np.diff(owned.indptr))
    (where,) = np.nonzero(rows == owned.indices)
    data = owned.data.copy()
    data[where] += lost[rows[where]]
    owned = csr(data, owned.indices, owned.indptr, *owned.shape)
    return Blocks(owned, strong_blocks.halo, strong_blocks.boundary)


def _row_sums(matrix: sp.csr_matrix) -> np.ndarray:
    return matrix @ np.ones(matrix.shape[1], dtype=matrix.dtype)
