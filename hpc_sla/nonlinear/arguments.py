"""theta as the user writes it, and as the flat tensors that derivatives are taken of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from hpc_sla.linear.systems import parameters_of, with_parameters
from hpc_sla.matrix import DSparseMatrix, TransposedMatrix

Rebuild = Callable[[Iterator[torch.Tensor]], Any]
_MATRICES = (DSparseMatrix, TransposedMatrix)


class Arguments:
    """theta taken apart into tensors, and put together again with others in their place.

    Parameters
    ----------
    theta : sequence
        Tensors, DSparseMatrix (or its transpose), lists, tuples and dicts of these; anything else
        is handed on as it is.

    Attributes
    ----------
    tensors : tuple of torch.Tensor
        A matrix's are its values.
    matrices : list of DSparseMatrix
    """

    def __init__(self, theta: tuple[Any, ...]) -> None:
        self.matrices: list[DSparseMatrix] = []
        found: list[torch.Tensor] = []
        self._rebuild = self._flatten(tuple(theta), found)
        self.tensors = tuple(found)

    def put(self, tensors: tuple[torch.Tensor, ...]) -> tuple[Any, ...]:
        """The user's theta with these tensors. Local."""
        found: tuple[Any, ...] = self._rebuild(iter(tensors))
        return found

    def _flatten(self, item: Any, found: list[torch.Tensor]) -> Rebuild:
        if isinstance(item, torch.Tensor):
            found.append(item)
            return next
        if isinstance(item, _MATRICES):
            self.matrices.append(item.T if isinstance(item, TransposedMatrix) else item)
            found.extend(parameters_of(item))
            return lambda tensors: with_parameters(item, (next(tensors),))
        if isinstance(item, dict):
            parts = {key: self._flatten(value, found) for key, value in item.items()}
            return lambda tensors: {key: part(tensors) for key, part in parts.items()}
        if type(item) in (list, tuple):
            kind, each = type(item), [self._flatten(value, found) for value in item]
            return lambda tensors: kind([part(tensors) for part in each])
        return lambda tensors: item
