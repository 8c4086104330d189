"""Systems with one unknown a place, assembled by scikit-fem. Each function gives (A, b, known)."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import skfem as fem
from skfem.helpers import dot, grad
from skfem.models.poisson import laplace, mass, unit_load

System = tuple[sp.csr_matrix, np.ndarray, dict]


def without(A: sp.spmatrix, b: np.ndarray, D: fem.Dofs, x: np.ndarray | None = None) -> System:
    """The system with the rows and columns of given values taken out."""
    A, b = fem.condense(A, b, x=x, D=D, expand=False)
    return sp.csr_matrix(A), b, {}


def kept(A: sp.spmatrix, b: np.ndarray, D: fem.Dofs, how: str, x: np.ndarray | None = None):
    """The system with those rows kept: of the identity ("enforce"), or penalised."""
    A, b = getattr(fem, how)(A, b, x=x, D=D)
    return sp.csr_matrix(A), b, {}


def square(n: int) -> fem.MeshTri:
    return fem.MeshTri.init_tensor(np.linspace(0, 1, n + 1), np.linspace(0, 1, n + 1))


def cube(n: int, mesh: type[fem.Mesh] = fem.MeshTet, lengths=(1, 1, 1)) -> fem.Mesh:
    return mesh.init_tensor(*(np.linspace(0, L, round(n * L) + 1) for L in lengths))


def disc(refinements: int, how: str, scale: float = 1.0) -> System:
    """Poisson on a disc by P1, the conductivity in any unit; on its rim x, or 0 where penalised."""
    basis = fem.Basis(fem.MeshTri.init_circle(refinements), fem.ElementTriP1())
    values = basis.doflocs[0].copy() if how == "enforce" else None
    A, b = scale * laplace.assemble(basis), scale * unit_load.assemble(basis)
    return kept(A, b, basis.get_dofs(), how, values)


def lshape(refinements: int, element: str) -> System:
    mesh = fem.MeshTri.init_lshaped().refined(refinements)
    basis = fem.Basis(mesh, getattr(fem, element)())
    return without(laplace.assemble(basis), unit_load.assemble(basis), basis.get_dofs())


def bricks(n: int, element: str) -> System:
    order = 3 if element == "ElementHex1" else 5
    basis = fem.Basis(cube(n, fem.MeshHex), getattr(fem, element)(), intorder=order)
    return without(laplace.assemble(basis), unit_load.assemble(basis), basis.get_dofs())


def tetrahedra_robin(n: int, transfer: float) -> System:
    """Heat in P2 tetrahedra that leaves through the whole surface."""
    mesh = cube(n)
    basis = fem.Basis(mesh, fem.ElementTetP2())
    surface = fem.FacetBasis(mesh, fem.ElementTetP2())
    A = laplace.assemble(basis) + transfer * mass.assemble(surface)
    return sp.csr_matrix(A), unit_load.assemble(basis), {}


def bubbles(refinements: int) -> System:
    """Crouzeix-Raviart: unknowns in the middles of edges."""
    mesh = fem.MeshTri.init_sqsymmetric().refined(refinements)
    basis = fem.Basis(mesh, fem.ElementTriCR())
    return without(laplace.assemble(basis), unit_load.assemble(basis), basis.get_dofs())


def interior_penalty(n: int) -> System:
    """Discontinuous P1 with Nitsche's coupling over every facet."""
    mesh, element, alpha = square(n), fem.ElementTriP1DG(), 20.0
    basis = fem.Basis(mesh, element)
    sides = [fem.InteriorFacetBasis(mesh, element, side=side) for side in (0, 1)]
    outer = fem.FacetBasis(mesh, element)

    @fem.BilinearForm
    def inner_facets(u, v, w):
        su, sv = (-1.0) ** w.idx[0], (-1.0) ** w.idx[1]
        flux_u, flux_v = dot(grad(u), w.n) / 2, dot(grad(v), w.n) / 2
        return alpha * su * sv * u * v / w.h - flux_u * sv * v - flux_v * su * u

    @fem.BilinearForm
    def outer_facets(u, v, w):
        return alpha * u * v / w.h - dot(grad(u), w.n) * v - dot(grad(v), w.n) * u

    A = laplace.assemble(basis) + fem.asm(inner_facets, sides, sides) + outer_facets.assemble(outer)
    return sp.csr_matrix(A), unit_load.assemble(basis), {}


def diffusion(n: int, ratio: float, degrees: float = 0.0) -> System:
    """Conductivity 1 along an axis turned by so many degrees, `ratio` across it. P1."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    R = np.array([[c, -s], [s, c]])
    K = R @ np.diag([1.0, ratio]) @ R.T

    @fem.BilinearForm
    def form(u, v, _):
        (ux, uy), (vx, vy) = grad(u), grad(v)
        return vx * (K[0, 0] * ux + K[0, 1] * uy) + vy * (K[1, 0] * ux + K[1, 1] * uy)

    basis = fem.Basis(square(n), fem.ElementTriP1())
    return without(form.assemble(basis), unit_load.assemble(basis), basis.get_dofs())


def jumps(n: int, contrast: float, where: str) -> System:
    """Two materials, one `contrast` times the other: a chequerboard, or cells at random in 3D."""
    if where == "chequerboard":
        mesh, element = (
            fem.MeshQuad.init_tensor(*[np.linspace(0, 1, n + 1)] * 2),
            fem.ElementQuad1(),
        )
        cells = mesh.p[:, mesh.t].mean(axis=1)
        hard = (np.floor(8 * cells).sum(axis=0) % 2).astype(bool)
    else:
        mesh, element = cube(n, fem.MeshHex), fem.ElementHex1()
        hard = np.random.default_rng(7).random(mesh.nelements) < 0.2
    basis = fem.Basis(mesh, element, intorder=3)
    material = basis.with_element(_constant(mesh))
    k = material.interpolate(np.where(hard, contrast, 1.0))

    @fem.BilinearForm
    def form(u, v, w):
        return w["k"] * dot(grad(u), grad(v))

    return without(form.assemble(basis, k=k), unit_load.assemble(basis), basis.get_dofs())


def _constant(mesh: fem.Mesh) -> fem.Element:
    return {fem.MeshQuad1: fem.ElementQuad0, fem.MeshHex1: fem.ElementHex0}.get(
        type(mesh), fem.ElementTriP0
    )()


def wind(n: int, peclet: float, stabilised: bool, turning: bool = False) -> System:
    """Advection-diffusion on a square, plain Galerkin or SUPG; the wind straight or in a circle."""

    def velocity(x):
        if turning:
            X, Y = 2 * x[0] - 1, 2 * x[1] - 1
            return np.stack([2 * Y * (1 - X**2), -2 * X * (1 - Y**2)])
        return np.stack([np.cos(0.4) + 0 * x[0], np.sin(0.4) + 0 * x[0]])

    def tau(w):
        speed = np.sqrt((velocity(w.x) ** 2).sum(axis=0)) + 1e-12
        local = speed * w.h * peclet / 2
        return w.h / (2 * speed) * (1 / np.tanh(local + 1e-12) - 1 / (local + 1e-12))

    @fem.BilinearForm
    def form(u, v, w):
        along = dot(velocity(w.x), grad(u))
        plain = dot(grad(u), grad(v)) / peclet + along * v
        return plain + tau(w) * along * dot(velocity(w.x), grad(v)) if stabilised else plain

    @fem.LinearForm
    def load(v, w):
        return v + tau(w) * dot(velocity(w.x), grad(v)) if stabilised else v

    basis = fem.Basis(square(n), fem.ElementTriP1())
    return without(form.assemble(basis), load.assemble(basis), basis.get_dofs())


def waves(n: int, wavenumber: float, element: str = "ElementTriP2") -> System:
    """Helmholtz with a source in the middle, fixed on two sides and free on the others."""
    basis = fem.Basis(square(n), getattr(fem, element)())

    @fem.LinearForm
    def source(v, w):
        return np.exp(-200 * ((w.x[0] - 0.5) ** 2 + (w.x[1] - 0.4) ** 2)) * v

    A = laplace.assemble(basis) - wavenumber**2 * mass.assemble(basis)
    fixed = basis.get_dofs(lambda x: np.isclose(x[0], 0) | np.isclose(x[1], 0))
    return without(A, source.assemble(basis), fixed)


def insulated(n: int, dimensions: int) -> System:
    """Nothing but Neumann: singular, with a load that sums to nothing, as far as rounding goes."""
    mesh, element = (
        (square(n), fem.ElementTriP2()) if dimensions == 2 else (cube(n), fem.ElementTetP1())
    )
    basis = fem.Basis(mesh, element)

    @fem.LinearForm
    def load(v, w):
        return np.cos(np.pi * w.x[0]) * v

    b = load.assemble(basis)
    return sp.csr_matrix(laplace.assemble(basis)), b - b.mean(), {}


def insulated_held(n: int) -> System:
    """Nothing but Neumann, and a multiplier that holds the mean: one full row and column."""
    basis = fem.Basis(square(n), fem.ElementTriP1())
    ones = unit_load.assemble(basis)[:, None]

    @fem.LinearForm
    def load(v, w):
        return w.x[0] * v

    A = sp.bmat([[laplace.assemble(basis), ones], [ones.T, None]], format="csr")
    return A, np.append(load.assemble(basis), 0.0), {}


def periodic(n: int, reaction: float) -> System:
    """A torus."""
    ends = np.linspace(0, 1, n + 1)
    mesh = fem.MeshQuad1DG.init_tensor(ends, ends, periodic=[0, 1])
    basis = fem.Basis(mesh, fem.ElementQuad2() if n < 50 else fem.ElementQuad1())

    @fem.LinearForm
    def load(v, w):
        return np.sin(2 * np.pi * w.x[0]) * np.cos(4 * np.pi * w.x[1]) * v

    A = laplace.assemble(basis) + reaction * mass.assemble(basis)
    return sp.csr_matrix(A), load.assemble(basis), {}


def periodic_tied(n: int) -> System:
    """A strip whose right end is its left one, the slave unknowns eliminated by fem.mpc."""
    mesh = square(n)
    basis = fem.Basis(mesh, fem.ElementTriP1())
    A, b = fem.enforce(
        laplace.assemble(basis),
        unit_load.assemble(basis),
        D=basis.get_dofs(lambda x: np.isclose(x[1], 0)),
    )
    left, right = (np.flatnonzero(np.isclose(mesh.p[0], end)) for end in (0, 1))
    left, right = (side[np.argsort(mesh.p[1, side])] for side in (left, right))
    A, b, *_ = fem.mpc(A, b, S=right, M=left)
    return sp.csr_matrix(A), b, {}


def bodies(n: int, count: int) -> System:
    """Discs and squares that do not touch, of conductivities from 1 to 400, each held somewhere."""
    blocks, loads = [], []
    for body in range(count):
        mesh = square(n + 3 * body)
        basis = fem.Basis(mesh, fem.ElementTriP1() if body % 2 else fem.ElementTriP2())
        k = 400.0 ** (body / max(count - 1, 1))
        cold = basis.get_dofs(lambda x: np.isclose(x[0], 0))
        A, b, _ = without(k * laplace.assemble(basis), unit_load.assemble(basis), cold)
        blocks.append(A)
        loads.append(b)
    return sp.block_diag(blocks, format="csr"), np.concatenate(loads), {}


def mass_matrix(n: int, element: str, graded: bool = False) -> System:
    """An L2 projection, on a mesh whose cells may differ in size by 10^6."""
    ends = np.linspace(0, 1, n + 1) ** (3 if graded else 1)
    mesh = fem.MeshTet if "Tet" in element else fem.MeshTri
    mesh = mesh.init_tensor(*[ends] * (3 if "Tet" in element else 2))
    basis = fem.Basis(mesh, getattr(fem, element)())

    @fem.LinearForm
    def load(v, w):
        return np.sin(7 * w.x[0]) * v

    return sp.csr_matrix(mass.assemble(basis)), load.assemble(basis), {}


def backward_euler(n: int, step: float) -> System:
    """One step of the heat equation on a square that is hot in the middle."""
    basis = fem.Basis(square(n), fem.ElementTriP2())
    M = mass.assemble(basis)
    hot = np.exp(-50 * ((basis.doflocs - 0.5) ** 2).sum(axis=0))
    return without(M + step * laplace.assemble(basis), M @ hot, basis.get_dofs())
