"""A sparse Jacobian from a few of its products."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch

from hpc_sla.nonlinear.colouring import colour_columns
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.pattern import DistributedPattern


class ColouredJacobian:
    """A Jacobian on a known pattern, by one product a colour. **Collective.**

    Columns of one colour have no row in common, so the product with the sum of their unit vectors
    holds all their entries (A. R. Curtis, M. J. D. Powell and J. K. Reid, IMA J. Appl. Math. 13,
    1974; T. F. Coleman and J. J. More, SIAM J. Numer. Anal. 20, 1983).

    Parameters
    ----------
    pattern : DSparseMatrix
        Square, with an entry (whatever its value) wherever the Jacobian may have one. Entries of
        the Jacobian outside it are added to others.

    Attributes
    ----------
    colours : int
        Products that `assemble` takes.
    """

    def __init__(self, pattern: DSparseMatrix) -> None:
        self._matrix = pattern.with_values(pattern.values.detach())
        known = _KNOWN.get(pattern.pattern)
        if known is None:
            known = _KNOWN[pattern.pattern] = _places(pattern)
        self._own, self._place, self.colours = known

    def assemble(self, operator: Any) -> DSparseMatrix:
        """The matrix whose products `operator.matvec` gives. **Collective.**"""
        n, dtype = self._matrix.layout.n_owned, operator.dtype
        found = torch.empty((self.colours, n), dtype=dtype, device=self._own.device)
        for colour in range(self.colours):
            found[colour] = operator.matvec((self._own == colour).to(dtype))
        return self._matrix.with_values(found.view(-1).index_select(0, self._place))


def _places(pattern: DSparseMatrix) -> _Places:
    """**Collective.**"""
    colour, colours = colour_columns(pattern)
    own = torch.from_numpy(colour).to(pattern.device)
    where = pattern.pattern
    known = torch.cat([own, where.plan.exchange(own)])
    there = known.index_select(0, where.local_columns())
    place = where.local_rows() + there * len(own)
    # Read for every Jacobian, and with the fewest bytes.
    small = torch.int32 if colours * len(own) < 2**31 else torch.int64
    return own.to(torch.int16 if colours < 2**15 else torch.int64), place.to(small), colours


_Places = tuple[torch.Tensor, torch.Tensor, int]
"""The colour of each owned column; where each entry lies in the products [colours, n_owned],
flattened; the number of colours."""

_KNOWN: WeakKeyDictionary[DistributedPattern, _Places] = WeakKeyDictionary()
"""Colours are found once for a pattern: many solves share one."""
