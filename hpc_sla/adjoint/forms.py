"""What a linear operator A(theta) is to its derivatives: the bilinear form y . A(theta) x."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from hpc_sla.adjoint.wanted import Later
from hpc_sla.distributed.keep_in_graph import tied
from hpc_sla.errors import HpcSlaError
from hpc_sla.kernels.csr import CsrPattern
from hpc_sla.kernels.function import Function
from hpc_sla.kernels.modes import transformed
from hpc_sla.sparse.product import product, rproduct, sample
from hpc_sla.sparse.stored import StoredMatrix

Theta = tuple[torch.Tensor, ...]
Changes = tuple[torch.Tensor | None, ...]


class Form(ABC):
    """y . A(theta) x and its derivatives, every one differentiable. **Collective**, all of them."""

    @abstractmethod
    def times(self, theta: Theta, x: torch.Tensor) -> torch.Tensor:
        """A(theta) x."""

    @abstractmethod
    def pull(
        self, theta: Theta, y: torch.Tensor, x: torch.Tensor, wanted: tuple[bool, ...]
    ) -> Changes:
        """The gradient of y . A(theta) x with respect to the wanted ones of theta."""

    @abstractmethod
    def push(self, theta: Theta, changes: Changes, x: torch.Tensor) -> torch.Tensor:
        """The product dA x, for changes of theta of which some is not None."""

    @property
    @abstractmethod
    def T(self) -> Form:
        """The form x . A(theta)^T y."""

    plain = True
    """Whether theta is this rank's own, and not replicated within what computes with it."""


class MatrixForm(Form):
    """A sparse matrix: theta is one tensor, the values on its pattern.

    Parameters
    ----------
    pattern : DistributedPattern or LocalPattern
    transposed : bool
        Whether A is the transpose of what is stored.
    """

    def __init__(self, pattern: Any, transposed: bool = False) -> None:
        self._pattern, self._transposed = pattern, transposed

    def times(self, theta: Theta, x: torch.Tensor) -> torch.Tensor:
        return (rproduct if self._transposed else product)(theta[0], x, self._pattern)

    def pull(
        self, theta: Theta, y: torch.Tensor, x: torch.Tensor, wanted: tuple[bool, ...]
    ) -> Changes:
        if self._transposed:
            x, y = y, x
        return (sample(y, x, self._pattern),)

    def push(self, theta: Theta, changes: Changes, x: torch.Tensor) -> torch.Tensor:
        (change,) = changes
        assert change is not None
        return self.times((change,), x)

    @property
    def T(self) -> MatrixForm:
        return MatrixForm(self._pattern, not self._transposed)


class OperatorForm(Form):
    """A matrix-free operator: theta are the tensors that its `matvec` computes with.

    Parameters
    ----------
    operator : object with `matvec` and, for a rectangular one, `rmatvec`
        Of differentiable torch code, for the derivatives with respect to theta.
    """

    plain = False

    def __init__(self, operator: Any, transposed: bool = False) -> None:
        self._operator, self._transposed = operator, transposed

    def times(self, theta: Theta, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = (self._operator.rmatvec if self._transposed else self.matvec)(x)
        return found

    def matvec(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self._operator.matvec(x)
        return found

    def pull(
        self, theta: Theta, y: torch.Tensor, x: torch.Tensor, wanted: tuple[bool, ...]
    ) -> Changes:
        if self._transposed:
            x, y = y, x
        found = iter(_Pull.apply(self, wanted, y, x, *theta))
        return tuple(next(found) if wants else None for wants in wanted)

    def push(self, theta: Theta, changes: Changes, x: torch.Tensor) -> torch.Tensor:
        raise HpcSlaError(
            "forward mode does not reach the parameters of a matrix-free operator; use backward"
        )

    @property
    def T(self) -> OperatorForm:
        return OperatorForm(self._operator, not self._transposed)


class _Pull(Function):
    """The vector-Jacobian product of `matvec` at x, with respect to theta alone.

    A function of its own, because x depends on theta too, and that path is not meant.
    """

    @staticmethod
    def forward(
        form: OperatorForm,
        wanted: tuple[bool, ...],
        y: torch.Tensor,
        x: torch.Tensor,
        *theta: torch.Tensor,
    ) -> Theta:
        chosen = [t for t, wants in zip(theta, wanted, strict=True) if wants]
        with torch.enable_grad():
            image = form.matvec(x.detach())
        if not image.requires_grad:
            return tuple(map(torch.zeros_like, chosen))
        found = torch.autograd.grad(image, chosen, y.detach(), allow_unused=True, retain_graph=True)
        return tuple(
            torch.zeros_like(t) if g is None else g for t, g in zip(chosen, found, strict=True)
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Theta) -> None:
        ctx.form, ctx.wanted, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def leads_to(node: Any) -> tuple[Any, ...]:
        return tuple(before for before, _ in node.next_functions[:2])  # y and x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        y, x, *theta = ctx.saved_tensors
        chosen = [t for t, wants in zip(theta, ctx.wanted, strict=True) if wants]
        with torch.enable_grad():
            y, x = (t.detach().requires_grad_() for t in (y, x))
            image = ctx.form.matvec(x)
            with tied(y, image):
                first = torch.autograd.grad(image, chosen, y, allow_unused=True, create_graph=True)
            pairs = [
                (g, c)
                for g, c in zip(first, grads, strict=True)
                if g is not None and g.requires_grad
            ]
        if not pairs:
            return (None,) * (4 + len(theta))
        of, cotangents = zip(*pairs, strict=True)
        d_y, d_x, *found = torch.autograd.grad(
            of, [y, x, *chosen], cotangents, allow_unused=True, retain_graph=True
        )
        second = iter(found)
        return (None, None, d_y, d_x, *(next(second) if wants else None for wants in ctx.wanted))


class NormalForm(Form):
    """y . A^T A x, of the form of A."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self.plain = form.plain

    def times(self, theta: Theta, x: torch.Tensor) -> torch.Tensor:
        return self._form.T.times(theta, self._form.times(theta, x))

    def pull(
        self, theta: Theta, y: torch.Tensor, x: torch.Tensor, wanted: tuple[bool, ...]
    ) -> Changes:
        form = self._form
        left = form.pull(theta, form.times(theta, x), y, wanted)
        return tuple(map(plus, left, form.pull(theta, form.times(theta, y), x, wanted)))

    def push(self, theta: Theta, changes: Changes, x: torch.Tensor) -> torch.Tensor:
        form = self._form
        left = form.T.push(theta, changes, form.times(theta, x))
        return left + form.T.times(theta, form.push(theta, changes, x))

    @property
    def T(self) -> NormalForm:
        return self


def leads_to(node: Any, plain: bool) -> tuple[Any, ...]:
    """Where `distributed.forgotten` goes on from a solve of b: to theta too, if that is `plain`."""
    before = tuple(node for node, _ in node.next_functions)
    return before if plain else before[:1]


def plus(a: torch.Tensor | None, b: torch.Tensor | None) -> torch.Tensor | None:
    """Their sum, None for nothing."""
    if a is None or b is None:
        return b if a is None else a
    return a + b


def minus(a: torch.Tensor | None) -> torch.Tensor | None:
    return None if a is None else -a


def parameters_of(A: Any) -> Theta:
    """The tensors whose function A is: the theta of its form. Local."""
    if isinstance(A, StoredMatrix):
        return (A.values,)
    parameters = getattr(A, "parameters", None)
    return tuple(parameters()) if callable(parameters) else ()


def parameters_at_hand(A: Any) -> tuple[torch.Tensor | Later, ...]:
    """The same, but of a square matrix whose values are packed, how to get at them. Local.

    Nobody has had these in hand, and so nobody asks for a gradient of them; but on other ranks
    somebody may.
    """
    if not isinstance(A, StoredMatrix):
        return parameters_of(A)
    if not A.held.written:
        square = A.layout is A.columns  # the form of another's normal equations goes by its values
        if square and not transformed():
            return (lambda: A.values,)
    return (A.values,)


def with_parameters(A: Any, theta: Theta) -> Any:
    """A of these tensors, on the same pattern; a matrix-free operator holds its own. Local.

    Without any, of the values that it has now, whatever becomes of them.
    """
    if not isinstance(A, StoredMatrix):
        return A
    return A.with_values(theta[0]) if theta else A.as_it_is()


def form_of(A: Any) -> Form:
    """The form of a matrix, its transpose or a matrix-free operator. Local."""
    return MatrixForm(A.pattern, A.transposed) if isinstance(A, StoredMatrix) else OperatorForm(A)


@dataclass(frozen=True)
class _OwnedRows:
    n_owned: int


class LocalPattern:
    """A CsrPattern that `hpc_sla.sparse.product` can differentiate the products of. Local."""

    def __init__(self, pattern: CsrPattern) -> None:
        self._pattern = pattern
        self.layout, self.columns = _OwnedRows(pattern.n_rows), _OwnedRows(pattern.n_columns)

    def matmul(self, values: torch.Tensor, x: torch.Tensor, out: torch.Tensor) -> None:
        self._pattern.matmul(values, x, out)

    def rmatmul(self, values: torch.Tensor, x: torch.Tensor, out: torch.Tensor) -> None:
        self._pattern.rmatmul(values, x, out)

    def sample(self, g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self._pattern.sample(g, x)
