"""The Galerkin product: the next level's matrix."""

from __future__ import annotations

import numpy as np
import torch

from hpc_sla.kernels import multigrid as kernels
from hpc_sla.matrix import DSparseMatrix
from hpc_sla.precond.amg.blocks import Blocks, Columns, distribute
from hpc_sla.precond.amg.prolongator import Prolongator
from hpc_sla.precond.amg.remote import fetch_rows, send_home


def galerkin(A: DSparseMatrix, blocks: Blocks, P: Prolongator) -> DSparseMatrix:
    """`P^T A P`. **Collective.**

    The rows of P that A's halo columns meet are fetched; what this rank adds to the rows of
    others is sent home and summed.

    Parameters
    ----------
    A : DSparseMatrix
    blocks : Blocks
        Of A.
    P : Prolongator
    """
    coarse, rows = P.pattern.columns, P.rows
    columns, known = Columns(coarse), Columns(coarse)
    columns.away = known.away = P.pattern.plan.halo
    there = fetch_rows(A.pattern.plan, rows, columns)
    halo = blocks.spread(blocks.halo)
    product = kernels.triple_product(P.transposed, blocks.owned, halo, rows, there, len(columns))
    mine = send_home(product, known, columns)
    pattern, values, _ = distribute(coarse, columns, mine)
    return DSparseMatrix(pattern, torch.from_numpy(np.ascontiguousarray(values)).to(A.device))
