"""theta as the user writes it, and as the flat tensors that derivatives are taken of."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from hpc_sla.adjoint.forms import parameters_of, with_parameters
from hpc_sla.errors import InputError
from hpc_sla.sparse.matrix import DSparseMatrix
from hpc_sla.sparse.stored import StoredMatrix

Rebuild = Callable[[Iterator[torch.Tensor]], Any]


class Arguments:
    """theta taken apart into tensors, and put together again with others in their place.

    Parameters
    ----------
    theta : sequence
        Tensors, DSparseMatrix (or its transpose, or what else has `values` and `with_values`),
        torch.nn.Module, lists, tuples, named ones too, dicts and dataclasses of these; anything
        else is handed on as it is.

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
        if isinstance(item, StoredMatrix):
            self.matrices.append(item.stored)
            found.extend(parameters_of(item))
            return lambda tensors: with_parameters(item, (next(tensors),))
        if isinstance(item, torch.nn.Module):
            return self._module(item, found, {})
        if isinstance(item, dict):
            parts = {key: self._flatten(value, found) for key, value in item.items()}
            return lambda tensors: _changed(item, {k: part(tensors) for k, part in parts.items()})
        if isinstance(item, (list, tuple)):
            each = [self._flatten(value, found) for value in item]
            return lambda tensors: _sequence(item, [part(tensors) for part in each])
        if is_dataclass(item) and not isinstance(item, type):
            named = {f.name: self._flatten(getattr(item, f.name), found) for f in _fields(item)}
            return lambda tensors: _replaced(item, {n: part(tensors) for n, part in named.items()})
        if callable(getattr(item, "with_values", None)) and isinstance(item.values, torch.Tensor):
            found.append(item.values)
            return lambda tensors: item.with_values(next(tensors))
        if isinstance(item, (set, frozenset)) and any(isinstance(v, torch.Tensor) for v in item):
            raise InputError(
                "a set of tensors has no order", field="theta", remedy="Pass a list or a dict"
            )
        return lambda tensors: item

    def _module(
        self, module: torch.nn.Module, found: list[torch.Tensor], met: dict[int, Any]
    ) -> Rebuild:
        """A module whose parameters are others: not the user's own, which stays as it is.

        Parameters, and modules, that occur twice do so again.
        """
        if id(module) in met:
            return met[id(module)]
        made: list[torch.nn.Module] = []
        parameters: dict[str, Rebuild] = {}
        children: dict[str, Rebuild] = {}

        def rebuild(tensors: Iterator[torch.Tensor]) -> torch.nn.Module:
            new = object.__new__(type(module))
            made[:] = [new]
            new.__dict__ = dict(module.__dict__)
            new.__dict__["_buffers"] = dict(module._buffers)
            new.__dict__["_parameters"] = {
                **module._parameters,
                **{name: part(tensors) for name, part in parameters.items()},
            }
            new.__dict__["_modules"] = {
                **module._modules,
                **{name: part(tensors) for name, part in children.items()},
            }
            return new

        met[id(module)] = lambda tensors: made[0]
        for name, parameter in module._parameters.items():
            if parameter is not None:
                parameters[name] = _again(parameter, found, met)
        for name, child in module._modules.items():
            if child is not None:
                children[name] = self._module(child, found, met)
        return rebuild


def _again(tensor: torch.Tensor, found: list[torch.Tensor], met: dict[int, Any]) -> Rebuild:
    """The tensor put for this one, the first time and whenever it occurs again."""
    if id(tensor) in met:
        return met[id(tensor)]
    put: list[torch.Tensor] = []

    def first(tensors: Iterator[torch.Tensor]) -> torch.Tensor:
        put[:] = [next(tensors)]
        return put[0]

    met[id(tensor)] = lambda tensors: put[0]
    found.append(tensor)
    return first


def _changed(item: dict[Any, Any], parts: dict[Any, Any]) -> dict[Any, Any]:
    if type(item) is dict:
        return parts
    made = copy.copy(item)
    made.update(parts)
    return made


def _sequence(item: Any, parts: list[Any]) -> Any:
    if hasattr(item, "_make"):
        return item._make(parts)  # a named tuple
    return type(item)(parts)


def _replaced(item: Any, parts: dict[str, Any]) -> Any:
    made = copy.copy(item)
    for name, part in parts.items():
        object.__setattr__(made, name, part)  # frozen or not
    return made


def _fields(item: Any) -> list[Any]:
    return [f for f in fields(item) if hasattr(item, f.name)]
