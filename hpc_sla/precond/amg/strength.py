"""Which neighbours count: the strength of connection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.distributed.layout import RowLayout
from hpc_sla.kernels.multigrid import condense
from hpc_sla.precond.amg.blocks import Blocks, csr
from hpc_sla.sparse.matrix import DSparseMatrix


@dataclass(frozen=True)
class Graph:
    """Connections between this rank's nodes, and to those of others (per rank).

    Attributes
    ----------
    layout : RowLayout
        Of the nodes.
    plan : HaloPlan
        Of values at nodes.
    blocks : Blocks
        The entries between nodes, those of a node with itself among them.
    root : array [n_nodes]
        sqrt |a_ii|, a_ii the latter.
    """

    layout: RowLayout
    plan: HaloPlan
    blocks: Blocks
    root: np.ndarray


def node_graph(A: DSparseMatrix, blocks: Blocks, block_size: int) -> Graph:
    """All connections of A between nodes of `block_size` unknowns. **Collective.**

    Between two nodes of several unknowns stands the Frobenius norm of their block.
    """
    if block_size == 1:
        diagonal = A.diagonal().detach().cpu().numpy()
        return Graph(A.layout, A.pattern.plan, blocks, _root(diagonal))
    layout = RowLayout(A.world, A.layout.offsets // block_size)
    unknowns = A.pattern.plan.halo
    nodes = np.unique(unknowns // block_size)
    of_halo = np.searchsorted(nodes, unknowns // block_size)
    n = layout.n_owned
    owned = condense(blocks.local, block_size)
    spread = blocks.spread(blocks.halo)
    halo = _condense(spread, of_halo, (n, len(nodes)), block_size)
    boundary = np.flatnonzero(np.diff(halo.indptr)).astype(np.int32)
    between = Blocks(owned, halo[boundary], boundary)
    return Graph(layout, HaloPlan(layout, nodes), between, _root(owned.diagonal()))


def _root(diagonal: np.ndarray) -> np.ndarray:
    root = np.abs(diagonal)
    return np.sqrt(root, out=root)


def _condense(
    matrix: sp.csr_matrix, node_of_column: np.ndarray, shape: tuple[int, int], block_size: int
) -> sp.csr_matrix:
    rows = np.repeat(np.arange(matrix.shape[0]) // block_size, np.diff(matrix.indptr))
    columns = node_of_column[matrix.indices]
    squares = sp.coo_matrix((matrix.data.astype(np.float64) ** 2, (rows, columns)), shape=shape)
    result = squares.tocsr()
    result.data = np.sqrt(result.data)
    return result


def strong_halo(graph: Graph, threshold: float) -> sp.csr_matrix:
    """The connections to other ranks with `|a_ij| > threshold sqrt(|a_ii a_jj|)`. **Collective.**

    Vanek, Mandel and Brezina, Computing 56 (1996), equation 5.1.

    Parameters
    ----------
    graph : Graph
    threshold : float
    """
    blocks, root = graph.blocks, graph.root
    here = torch.from_numpy(root).to(graph.layout.world.device)
    there = graph.plan.exchange(here).cpu().numpy()
    matrix = blocks.halo
    rows = np.repeat(blocks.boundary, np.diff(matrix.indptr))
    sizes = np.abs(matrix.data)
    keep = (sizes > threshold * root[rows] * there[matrix.indices]) & (sizes > 0)
    indptr = np.concatenate([[0], np.cumsum(keep)])[matrix.indptr].astype(np.int32)
    return csr(matrix.data[keep], matrix.indices[keep], indptr, *matrix.shape)
