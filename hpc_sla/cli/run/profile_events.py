"""Which functions ``--profile`` measures, by what names, and what they move.

This loads every solver, and is itself loaded with ``--profile`` only. What is loaded later is not
measured.

Bytes are what must come from and go to memory at least once: a matrix in CSR with its vectors, the
vectors of an update; of an exchange, what this rank sends.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch

import hpc_sla.eigen.solver
import hpc_sla.linear.solver
import hpc_sla.nonlinear.solver  # noqa: F401 - the three load what is looked for by its class
from hpc_sla.checkpoint.checkpoint import Checkpoint
from hpc_sla.distributed.halo import HaloPlan
from hpc_sla.distributed.host_numbers import HostNumbers
from hpc_sla.distributed.world import World
from hpc_sla.eigen import basis as eigenbasis
from hpc_sla.eigen import space
from hpc_sla.eigen.lobpcg import Lobpcg
from hpc_sla.kernels import basis, fused, passes, vectors
from hpc_sla.linear.bursts import CompiledSteps
from hpc_sla.linear.choices import METHODS
from hpc_sla.linear.driver import KrylovLoop
from hpc_sla.linear.method import Method
from hpc_sla.nonlinear.coloured import ColouredJacobian
from hpc_sla.nonlinear.equations import Equations, JacobianProducts
from hpc_sla.nonlinear.newton import NewtonIteration
from hpc_sla.observe.profile import APPLY, Bytes, Hook, Setting
from hpc_sla.precond.base import Preconditioner
from hpc_sla.precond.choices import CHOICES
from hpc_sla.precond.jacobi import Jacobi
from hpc_sla.precond.none import Identity
from hpc_sla.sparse.pattern import DistributedPattern

HALO = "halo exchange"
REDUCTION = "reduction"
ORTHOGONALISATION = "orthogonalisation"


def hooks(world: World) -> Iterator[Hook]:
    """All of them, for such a world."""
    for registry in (METHODS, CHOICES):  # which load their classes when they are asked for
        for name in registry.classes:
            registry.load(name)
    yield from _products()
    yield from _communication(world)
    yield from _preconditioners()
    yield from _vectors()
    yield from _solvers()
    yield from _nonlinear()


def settings(world: World) -> Iterator[Setting]:
    """What is otherwise while events are measured: no bursts of steps, compiled or as graphs."""
    yield Setting(CompiledSteps, "allowed", False)
    if world.device.type == "cuda":
        for method in Method.__subclasses__():
            if "capturable" in vars(method):
                yield Setting(method, "capturable", False)


def _products() -> Iterator[Hook]:
    yield Hook(DistributedPattern, DistributedPattern.matmul, _product, _csr)
    yield Hook(DistributedPattern, DistributedPattern.rmatmul, "transposed product", _csr)
    yield Hook(DistributedPattern, DistributedPattern.absolute_matmul, "product with |A|", _csr)
    yield Hook(DistributedPattern, DistributedPattern.sample, "gradient of the values")


def _product(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """One pass over the matrix does both where the solver wants an inner product, too."""
    given = (*args[4:7], kwargs.get("dot"), kwargs.get("square"))  # and behind them the packed form
    with_dots = any(one is not None for one in given)
    return "product and dots" if with_dots else "product"


def _csr(args: tuple[Any, ...], result: Any) -> int:
    pattern, values, x, out = args[:4]
    moved = 0
    for block in (pattern.owned, pattern.halo):
        moved += block.nnz * (values.dtype.itemsize + 4) + 4 * (block.n_rows + 1)
    return moved + _vectors_of(x, out)


def _communication(world: World) -> Iterator[Hook]:
    def sent_of_channel(args: tuple[Any, ...], result: Any) -> int:
        return _vectors_of(args[0].send_buffer)

    def sent_of_plan(args: tuple[Any, ...], result: Any) -> int:
        return _vectors_of(result.send_buffer)

    yield Hook(HaloPlan, HaloPlan.start_exchange, HALO, sent_of_plan)
    transport = type(world.transport)
    for entry in list(vars(sys.modules[transport.__module__]).values()):
        if not isinstance(entry, type) or entry.__module__ != transport.__module__:
            continue
        own = vars(entry)
        if "start" in own and "finish" in own:
            yield Hook(entry, own["start"], HALO, sent_of_channel)
            yield Hook(entry, own["finish"], HALO, counts=False)
        if "wait" in own:
            yield Hook(entry, own["wait"], REDUCTION, counts=False)
    for name in ("all_reduce_sum", "start_all_reduce_sum"):
        yield Hook(transport, vars(transport)[name], REDUCTION, _second)
    for method in (HostNumbers.stacked, HostNumbers._reduced):
        yield Hook(HostNumbers, method, "reduction of host numbers")
    # Elsewhere than on rank 0 the wait for it.
    yield Hook(World, World.on_root, "decision of rank 0")


def _second(args: tuple[Any, ...], result: Any) -> int:
    return _vectors_of(args[1])


def _preconditioners() -> Iterator[Hook]:
    def three_vectors(args: tuple[Any, ...], result: Any) -> int:
        return 3 * _vectors_of(args[1])

    yield Hook(Preconditioner, Preconditioner.made_on, "precond set-up", whole=True)
    for kind in _below(Preconditioner):
        if kind is Identity:
            continue
        moved = three_vectors if issubclass(kind, Jacobi) else None
        if "apply" in vars(kind):
            yield Hook(kind, vars(kind)["apply"], APPLY, moved)
        transpose = vars(kind).get("apply_transpose")
        if transpose is not None and transpose.__name__ == "apply_transpose":
            yield Hook(kind, transpose, APPLY, moved)


def _below(kind: type) -> Iterator[type]:
    child: type
    for child in kind.__subclasses__():
        yield child
        yield from _below(child)


def _vectors() -> Iterator[Hook]:
    for function, reads_and_writes in ((vectors.axpy_, 3), (vectors.aypx_, 3), (vectors.copy_, 2)):
        yield Hook(None, function, "vector update", _times(reads_and_writes))
    yield Hook(None, vectors.dot_into, "dot (local)", _second_and_third)
    # r, q in, r out, and the preconditioner's diagonal; r, p, x in, p, x out.
    yield Hook(None, fused.residual_pass, "cg pass: r, M r and dots", _fused(3, 3))
    yield Hook(None, fused.direction_pass, "cg pass: x and p", _fused(5, 3))
    # Both, on a GPU: the arguments are x, r, p, q and the diagonal.
    yield Hook(None, fused.device_step, "cg passes, scalars on the device", _times(10))
    yield Hook(None, passes.bicgstab_half, "bicgstab pass: half step", _times(4))
    yield Hook(None, passes.bicgstab_full, "bicgstab pass: full step and dots", _times(8))
    yield Hook(None, passes.bicgstab_turn, "bicgstab pass: direction", _times(5))
    yield Hook(None, passes.minres_lanczos, "minres pass: Lanczos step and dots", _times(7))
    yield Hook(None, passes.minres_direction, "minres pass: direction", _times(10))
    yield Hook(basis.Basis, basis.Basis.dots, ORTHOGONALISATION, _basis_dots)
    # A step of Gram-Schmidt is the products and the update.
    yield Hook(basis.Basis, basis.Basis.update, ORTHOGONALISATION, _basis_update, counts=False)
    yield Hook(None, basis.add_combination, "combination of the basis", _combination)


def _times(count: int) -> Bytes:
    return lambda args, result: count * _vectors_of(args[0])


def _second_and_third(args: tuple[Any, ...], result: Any) -> int:
    return _vectors_of(args[1], args[2])


def _fused(vectors: int, inverse: int) -> Bytes:
    return lambda args, result: (
        vectors * _vectors_of(args[0])
        + (0 if args[inverse] is None else _vectors_of(args[inverse]))
    )


def _basis_dots(args: tuple[Any, ...], result: Any) -> int:
    return int(args[1]) * _vectors_of(args[0].vectors[0])


def _basis_update(args: tuple[Any, ...], result: Any) -> int:
    return (int(args[1]) + 4) * _vectors_of(args[0].vectors[0])


def _combination(args: tuple[Any, ...], result: Any) -> int:
    return (args[1].shape[0] + 2) * _vectors_of(args[2])


def _solvers() -> Iterator[Hook]:
    yield Hook(Checkpoint, Checkpoint.save, "checkpoint", whole=True, io=True)
    yield Hook(Checkpoint, Checkpoint._agree, "agreement to stop", whole=True)
    # Last of all, what is left of the loops: Python, and what has no event.
    yield Hook(KrylovLoop, KrylovLoop.run, "Krylov loop, all else")
    yield Hook(Lobpcg, Lobpcg.run, "LOBPCG loop, all else")
    yield Hook(space.Space, space.Space.grams, f"{ORTHOGONALISATION}: Gram matrices")
    yield Hook(space.Space, space.Space.combine, f"{ORTHOGONALISATION}: combinations")
    yield Hook(None, eigenbasis.select, f"{ORTHOGONALISATION}: selection", whole=True)
    yield Hook(None, eigenbasis.rayleigh_ritz, "Rayleigh-Ritz (dense)", whole=True)


def _nonlinear() -> Iterator[Hook]:
    yield Hook(NewtonIteration, NewtonIteration.run, "Newton loop, all else")
    yield Hook(Equations, Equations.__call__, "residual evaluation", whole=True)
    yield Hook(JacobianProducts, JacobianProducts.matvec, "Jacobian product", whole=True)
    yield Hook(JacobianProducts, JacobianProducts.rmatvec, "Jacobian product", whole=True)
    yield Hook(ColouredJacobian, ColouredJacobian.assemble, "Jacobian assembly", whole=True)


def _vectors_of(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
