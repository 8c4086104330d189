"""Finding parameters that should have gone through `world.replicate` and did not.

What each rank computes for itself and then sums over ranks gives a parameter that all ranks hold
this rank's part of its gradient only, without an error: every rank then trains its own. Whether a
leaf of the graph is such a parameter, or this rank's own part of a distributed vector, no rank can
tell alone, and tensors do not say. So the leaves from which a sum over ranks can be reached without
passing `replicate` are compared between ranks, once for each leaf, where ranks meet in any case,
and those that look alike are named by a warning as soon as a gradient goes back to them.
"""

from __future__ import annotations

import gc
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.weak import WeakIdKeyDictionary

from hpc_sla.distributed.ranks import Ranks
from hpc_sla.errors import PartialGradientWarning, warn

_SMALL = 4
"""Up to so many equal numbers still are taken for a parameter, not for a vector at its start."""

_LARGE = 64
"""Beyond so many numbers, what belongs to no layer of torch.nn is taken for this rank's own; beyond
a quarter of it, what is no torch.nn.Parameter either: a field that starts alike on all ranks is as
likely as a parameter that nobody called one."""

_SEARCHES = 100
"""So often modules are searched for; who makes some in every step is not slowed down for ever."""

_SEEN = "hpc_sla has looked here"

Key = tuple[str, tuple[int, ...], str]


@dataclass
class _Leaf:
    """What this rank says of a leaf."""

    key: Key
    """The layer of torch.nn it belongs to, if any; its shape and dtype."""
    digest: int
    name: str
    suspect: str = ""
    """What to say of it in a warning; empty where there is nothing, or nothing more."""


@dataclass
class Tags:
    """Three numbers that travel with a sum over ranks, and their sums."""

    own: tuple[float, float, float] = (0.0, 0.0, 0.0)
    sums: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass
class Walk:
    """The leaves behind a tensor that no `replicate` lies before, and lengths of vectors there."""

    leaves: list[torch.Tensor] = field(default_factory=list)
    lengths: set[int] = field(default_factory=set)
    nodes: list[Any] = field(default_factory=list)


class Forgotten:
    """What one World knows of the leaves it has met."""

    def __init__(self, world: Ranks) -> None:
        self._world = world
        self._known = WeakIdKeyDictionary()
        self._searches = 0

    def look(self, tensor: torch.Tensor, lengths: Iterable[int] = ()) -> Look:
        """Go back from `tensor` to its leaves. Local.

        Parameters
        ----------
        tensor : torch.Tensor
            About to be summed over ranks, or what a solver computes with.
        lengths : iterable of int
            Of this rank's parts of vectors: a leaf as long is this rank's own.
        """
        if not (torch.is_grad_enabled() and tensor.requires_grad) or _transformed(tensor):
            return _NOTHING
        walk = _walk(tensor)
        walk.lengths.update(lengths)
        described = []
        new = [t for t in walk.leaves if t not in self._known]
        parameters = [t for t in new if isinstance(t, torch.nn.Parameter)]
        owners: dict[int, tuple[str, str]] = {}
        if parameters and self._searches < _SEARCHES:
            self._searches += 1
            owners = _owners(parameters)
        for leaf in new:
            found = self._known[leaf] = _describe(leaf, walk.lengths, owners)
            if found is not None:
                described.append(found)
        return Look(self, walk, described)

    def compare(self, look: Look) -> None:
        """Compare what ranks found, where one found something new. **Collective.**"""
        everyone = self._world.comm.allgather([(leaf.key, leaf.digest) for leaf in look.new])
        for leaf in look.new:
            digests = [{d for key, d in found if key == leaf.key} for found in everyone]
            alike = all(leaf.digest in d for d in digests)
            # On all ranks or on none: a filter may make an error of the warning.
            if alike or (leaf.key[0] and all(digests)):
                leaf.suspect = _called(leaf, not alike)

    def own(self, tensor: object) -> None:
        """Whatever it looks like: each rank has its own. Local."""
        if isinstance(tensor, torch.Tensor) and tensor.requires_grad and tensor.is_leaf:
            self._known[tensor] = None

    def of(self, leaf: torch.Tensor) -> _Leaf | None:
        """What is known of a leaf. Local."""
        found: _Leaf | None = self._known.get(leaf)
        return found


class Look:
    """What one rank found behind a tensor."""

    def __init__(self, forgotten: Forgotten | None, walk: Walk, new: list[_Leaf]) -> None:
        self._forgotten, self._walk, self.new = forgotten, walk, new

    def warn_behind(self, *outputs: torch.Tensor) -> None:
        """Once a gradient comes to one of `outputs`, warn of what was found. Local."""
        if self._forgotten is None:
            return
        known = [self._forgotten.of(leaf) for leaf in self._walk.leaves]
        bad = [leaf for leaf in known if leaf is not None and leaf.suspect]
        if not bad:
            for node in self._walk.nodes:
                node.metadata[_SEEN] = True
            return
        for output in outputs:
            if output.requires_grad:
                output.register_hook(_Warn(bad))


_NOTHING = Look(None, Walk(), [])


class _Warn:
    """A hook: says what it has to say once, and leaves the gradient alone."""

    def __init__(self, leaves: list[_Leaf]) -> None:
        self._leaves = leaves

    def __call__(self, gradient: torch.Tensor) -> None:
        named = [leaf.suspect for leaf in self._leaves if leaf.suspect]
        for leaf in self._leaves:
            leaf.suspect = ""
        if named:
            warn(_message(named), PartialGradientWarning)


class WatchedRanks(Ranks, Protocol):
    """Ranks that remember which leaves they have met: a World."""

    forgotten: Forgotten


def watch(
    world: WatchedRanks, image: torch.Tensor, lengths: Iterable[int] = ()
) -> Callable[..., None]:
    """Look behind `image`, compare, and give what warns behind outputs. **Collective.**

    For where the ranks meet but seldom: it costs one number's reduction.
    """
    if world.size == 1:
        return _NOTHING.warn_behind
    look = world.forgotten.look(image, lengths)
    if world.sum(len(look.new)):
        world.forgotten.compare(look)
    return look.warn_behind


def digest_of(tensor: torch.Tensor) -> int:
    """32 bits of a tensor's numbers. Local; waits for the device."""
    return zlib.crc32(bytes_of(tensor).tobytes())


def bytes_of(tensor: torch.Tensor) -> np.ndarray:
    """A tensor's numbers as uint8 [m] on the host, of any dtype. Local; waits for the device."""
    found: np.ndarray = tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy()
    return found


def _walk(tensor: torch.Tensor) -> Walk:
    """Each part of a graph once, if it has nothing to tell of."""
    walk = Walk()
    if tensor.grad_fn is None:
        walk.leaves.append(tensor)
        return walk
    todo: list[Any] = [tensor.grad_fn]
    seen: set[Any] = set()
    while todo:
        node = todo.pop()
        if node is None or node in seen or _SEEN in node.metadata:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            walk.leaves.append(node.variable)
            continue
        walk.nodes.append(node)
        function = getattr(type(node), "_forward_cls", None)
        if function is not None:
            walk.lengths.update(_lengths(node))
        leads_to = getattr(function, "leads_to", None)
        if getattr(function, "__module__", "") == "torch.utils.checkpoint":
            continue  # a whole computation, which may replicate what it takes
        if leads_to is None:
            todo.extend(before for before, _ in node.next_functions)
        else:
            todo.extend(leads_to(node))
    return walk


def _lengths(node: Any) -> set[int]:
    """Those of vectors that one of this package's functions worked on."""
    found: set[int] = set()
    forms = [getattr(getattr(node, "system", None), "form", None)]
    forms += [getattr(getattr(node, "pencil", None), name, None) for name in ("A", "B")]
    patterns = [getattr(node, "pattern", None), *(getattr(f, "_pattern", None) for f in forms)]
    for pattern in patterns:
        if pattern is None:
            continue
        found.update((pattern.layout.n_owned, pattern.columns.n_owned))
        found.add(getattr(pattern, "nnz_owned", -1))
    plan = getattr(node, "plan", None)
    if plan is not None:
        found.update((plan.layout.n_owned, plan.n_halo, plan.layout.n_owned + plan.n_halo))
    return found


def _describe(
    leaf: torch.Tensor, lengths: set[int], owners: dict[int, tuple[str, str]]
) -> _Leaf | None:
    """None for what is this rank's own for all anyone can tell."""
    if type(leaf) not in (torch.Tensor, torch.nn.Parameter) or _transformed(leaf):
        return None
    if leaf.layout != torch.strided:  # a matrix, which one rank has or each its rows of
        return None
    name, layer = owners.get(id(leaf), ("", ""))
    numbers = leaf.numel()
    if not numbers:
        return None
    if not layer:
        most = _LARGE if isinstance(leaf, torch.nn.Parameter) else _LARGE // 4
        if numbers > most or (leaf.dim() and leaf.shape[0] in lengths):
            return None
        if numbers > _SMALL and bool((leaf == leaf.reshape(-1)[0]).all()):
            return None
    key = (layer and f"{layer} {name}", tuple(leaf.shape), str(leaf.dtype))
    return _Leaf(key, digest_of(leaf), name)


def _owners(parameters: Sequence[torch.Tensor]) -> dict[int, tuple[str, str]]:
    """For each parameter of a module its name, and the layer of torch.nn it belongs to, or "".

    Found by a search for the modules there are, which is made seldom.
    """
    wanted = {id(parameter) for parameter in parameters}
    found: dict[int, tuple[str, str]] = {}
    for module in [m for m in gc.get_objects() if issubclass(type(m), torch.nn.Module)]:
        for prefix, part in module.named_modules():
            for name, parameter in part._parameters.items():
                if id(parameter) not in wanted:
                    continue
                path = f"{prefix}.{name}" if prefix else name
                kind = type(part)
                layer = kind.__name__ if kind.__module__.startswith("torch.nn.") else ""
                if len(path) > len(found.get(id(parameter), ("", ""))[0]):
                    found[id(parameter)] = (path, layer)
    return found


def _called(leaf: _Leaf, differs: bool) -> str:
    _, shape, dtype = leaf.key
    what = f"shape {list(shape)}, {dtype.removeprefix('torch.')}"
    what += ", different on each rank" if differs else ", the same values on each rank"
    return f"{leaf.name or 'a tensor'} ({what})"


def _message(named: list[str]) -> str:
    some = "; ".join(named[:8]) + (f"; {len(named) - 8} more" if len(named) > 8 else "")
    return (
        f"each rank gets its own part only of the gradient of {some}: what depends on it is summed "
        "over ranks, without world.replicate in between, so that ranks which step along the "
        "gradient drift apart. Compute with world.replicate(tensor), or call "
        "world.replicate_module(net) in place of net. If each rank means to have its own, ignore "
        "hpc_sla.PartialGradientWarning"
    )


def _transformed(tensor: torch.Tensor) -> bool:
    """Whether torch.func is at work, whose tensors cannot be looked into."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))
