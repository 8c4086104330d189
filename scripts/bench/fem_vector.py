"""Elasticity, plates, frames and edge elements. Each function gives (A, b, known)."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import skfem as fem
from fem_scalar import System, cube, kept, square, without
from skfem.helpers import curl, dd, ddot, div, dot, eye, grad, sym_grad, trace
from skfem.models.elasticity import lame_parameters, linear_elasticity
from skfem.models.poisson import mass

STEEL = 2.1e11


def _left(x):
    return np.isclose(x[0], 0)


def _known(basis: fem.Basis, free: np.ndarray | None = None) -> dict:
    """What a user of coordinates gives: the unknowns of a node, and the place of each row."""
    rows = np.arange(basis.N) if free is None else free
    return {"block_size": basis.mesh.dim(), "coordinates": basis.doflocs[:, rows].T.copy()}


def bar(n: int, mesh: str, how: str, nu: float = 0.3, known: bool = False) -> System:
    """A steel bar of 4 x 1 x 1 m under its own weight, clamped at one end."""
    hexahedra = mesh == "hex"
    cells = cube(n, fem.MeshHex if hexahedra else fem.MeshTet, (4, 1, 1))
    element = fem.ElementVector(fem.ElementHex1() if hexahedra else fem.ElementTetP1())
    basis = fem.Basis(cells, element, intorder=3 if hexahedra else 1)
    A = linear_elasticity(*lame_parameters(STEEL, nu)).assemble(basis)

    @fem.LinearForm
    def weight(v, _):
        return -7800 * 9.81 * v[2]

    b, clamped = weight.assemble(basis), basis.get_dofs(_left)
    if how != "condense":
        A, b, _ = kept(A, b, clamped, how)
        return A, b, _known(basis) if known else {}
    A, b, _ = without(A, b, clamped)
    return A, b, _known(basis, basis.complement_dofs(clamped)) if known else {}


def composite(n: int, known: bool = False) -> System:
    """A rubber sheet with steel inclusions, plane strain, P1; pulled at its right end."""
    mesh = square(n)
    basis = fem.Basis(mesh, fem.ElementVector(fem.ElementTriP1()))
    cells = mesh.p[:, mesh.t].mean(axis=1)
    steel = (np.sin(6 * np.pi * cells[0]) * np.sin(6 * np.pi * cells[1])) > 0.5
    stiffness = basis.with_element(fem.ElementTriP0()).interpolate(np.where(steel, STEEL, 1e7))
    lam, mu = lame_parameters(1.0, 0.3)

    @fem.BilinearForm
    def form(u, v, w):
        e = sym_grad(u)
        return w["E"] * ddot(2 * mu * e + lam * eye(trace(e), 2), sym_grad(v))

    @fem.LinearForm
    def pull(v, _):
        return 1e5 * v[0]

    end = fem.FacetBasis(mesh, basis.elem, facets=mesh.facets_satisfying(lambda x: x[0] == 1.0))
    A, b, clamped = form.assemble(basis, E=stiffness), pull.assemble(end), basis.get_dofs(_left)
    A, b, _ = without(A, b, clamped)
    return A, b, _known(basis, basis.complement_dofs(clamped)) if known else {}


def rubber(n: int, mixed: bool, nu: float = 0.4999) -> System:
    """A nearly incompressible block that is pressed: by displacements, or with the pressure."""
    mesh = square(n)
    u = fem.Basis(mesh, fem.ElementVector(fem.ElementTriP2()), intorder=4)
    lam, mu = lame_parameters(1e6, nu)

    @fem.LinearForm
    def press(v, _):
        return -1e4 * v[1]

    top = fem.FacetBasis(mesh, u.elem, facets=mesh.facets_satisfying(lambda x: x[1] == 1.0))
    load, glued = press.assemble(top), u.get_dofs(lambda x: np.isclose(x[1], 0))
    if not mixed:
        return without(linear_elasticity(lam, mu).assemble(u), load, glued)
    p = fem.Basis(mesh, fem.ElementTriP1(), intorder=4)

    @fem.BilinearForm
    def shear(u, v, _):
        return 2 * mu * ddot(sym_grad(u), sym_grad(v))

    @fem.BilinearForm
    def pressure(u, q, _):
        return -div(u) * q

    B = pressure.assemble(u, p)
    A = sp.bmat([[shear.assemble(u), B.T], [B, -mass.assemble(p) / lam]], format="csr")
    return without(A, np.append(load, np.zeros(p.N)), glued.all())


def _bending(thickness: float, nu: float = 0.3):
    D = STEEL * thickness**3 / (12 * (1 - nu**2))

    @fem.BilinearForm
    def form(u, v, _):
        moment = D * ((1 - nu) * dd(u) + nu * eye(trace(dd(u)), 2))
        return ddot(moment, dd(v))

    return form


def plate(n: int, element: str, thickness: float = 0.01) -> System:
    """A clamped steel plate: Morley's triangles or the squares of Bogner, Fox and Schmit.

    Deflections are in m, slopes have no unit, and those squares have twists in 1/m.
    """
    triangles = element == "ElementTriMorley"
    ends = np.linspace(0, 1, n + 1)
    mesh = (fem.MeshTri if triangles else fem.MeshQuad).init_tensor(ends, ends)
    basis = fem.Basis(mesh, getattr(fem, element)(), intorder=4)

    @fem.LinearForm
    def weight(v, _):
        return -7800 * 9.81 * thickness * v

    return without(_bending(thickness).assemble(basis), weight.assemble(basis), basis.get_dofs())


def thick_plate(n: int, thickness: float) -> System:
    """Reissner and Mindlin's plate, deflection by P2 and rotations by P2, simply supported."""
    mesh = square(n)
    w, r = (
        fem.Basis(mesh, e, intorder=2)
        for e in (fem.ElementTriP2(), fem.ElementVector(fem.ElementTriP2()))
    )
    nu = 0.3
    D = STEEL * thickness**3 / (12 * (1 - nu**2))
    G = 5 / 6 * STEEL / (2 * (1 + nu)) * thickness

    @fem.BilinearForm
    def bending(u, v, _):
        e = sym_grad(u)
        return D * ddot((1 - nu) * e + nu * eye(trace(e), 2), sym_grad(v)) + G * dot(u, v)

    @fem.BilinearForm
    def shear(u, v, _):
        return G * dot(grad(u), grad(v))

    @fem.BilinearForm
    def coupling(u, v, _):
        return -G * dot(grad(u), v)

    @fem.LinearForm
    def weight(v, _):
        return -7800 * 9.81 * thickness * v

    C = coupling.assemble(w, r)
    A = sp.bmat([[shear.assemble(w), C.T], [C, bending.assemble(r)]], format="csr")
    return without(A, np.append(weight.assemble(w), np.zeros(r.N)), w.get_dofs().all())


def beam_on_soil(n: int) -> System:
    """A rail on an elastic bed under an axle, by Hermite's cubics: deflections and slopes."""
    basis = fem.Basis(fem.MeshLine(np.linspace(0, 0.25 * n, n + 1)), fem.ElementLineHermite())
    EI, bed = 6.4e6, 5e7

    @fem.BilinearForm
    def form(u, v, _):
        return EI * ddot(dd(u), dd(v)) + bed * u * v

    @fem.LinearForm
    def axles(v, w):
        return 1e5 * np.exp(-((np.mod(w.x[0], 20.0) - 10) ** 2)) * v

    return sp.csr_matrix(form.assemble(basis)), axles.assemble(basis), {}


def frame(stories: int, bays: int) -> System:
    """A plane steel frame: stories x bays of Euler and Bernoulli's members, N, N and N m a node.

    The members' matrices are the textbook's (J. Przemieniecki, 1968); wind from the left.
    """
    nodes = np.array([(3.0 * i, 3.5 * j) for j in range(stories + 1) for i in range(bays + 1)])
    number = np.arange(len(nodes)).reshape(stories + 1, bays + 1)
    columns = np.stack([number[:-1].ravel(), number[1:].ravel()], axis=1)
    beams = np.stack([number[1:, :-1].ravel(), number[1:, 1:].ravel()], axis=1)
    ends = np.concatenate([columns, beams])
    along = nodes[ends[:, 1]] - nodes[ends[:, 0]]
    L = np.linalg.norm(along, axis=1)
    c, s = (along / L[:, None]).T
    area, inertia = 5e-3, 5e-5
    member = np.zeros((len(ends), 6, 6))
    axial, EI = STEEL * area / L, STEEL * inertia
    member[:, [0, 3], [0, 3]] = axial[:, None]
    member[:, 0, 3] = member[:, 3, 0] = -axial
    for i, j, value in (
        (1, 1, 12 * EI / L**3), (1, 2, 6 * EI / L**2), (1, 4, -12 * EI / L**3),
        (1, 5, 6 * EI / L**2), (2, 2, 4 * EI / L), (2, 4, -6 * EI / L**2), (2, 5, 2 * EI / L),
        (4, 4, 12 * EI / L**3), (4, 5, -6 * EI / L**2), (5, 5, 4 * EI / L),
    ):  # fmt: skip
        member[:, i, j] = member[:, j, i] = value
    turn = np.zeros((len(ends), 6, 6))
    for k in (0, 3):
        turn[:, k, k], turn[:, k, k + 1] = c, s
        turn[:, k + 1, k], turn[:, k + 1, k + 1], turn[:, k + 2, k + 2] = -s, c, 1
    member = turn.transpose(0, 2, 1) @ member @ turn
    unknowns = (3 * ends[:, :, None] + np.arange(3)).reshape(len(ends), 6)
    rows, cols = np.repeat(unknowns, 6, axis=1), np.tile(unknowns, 6)
    A = sp.csr_matrix((member.ravel(), (rows.ravel(), cols.ravel())))
    b = np.zeros(A.shape[0])
    b[3 * number[1:, 0]] = 2e4
    b[3 * number[1:].ravel() + 1] = -5e4
    standing = 3 * (bays + 1)
    return A[standing:, standing:].tocsr(), b[standing:], {}


def edges(n: int, beta: float) -> System:
    """Nedelec's edges on tetrahedra: curl curl u + beta u."""
    basis = fem.Basis(cube(n), fem.ElementTetN0())

    @fem.BilinearForm
    def form(u, v, _):
        return dot(curl(u), curl(v)) + beta * dot(u, v)

    @fem.LinearForm
    def load(v, w):
        return v[0] * np.sin(np.pi * w.x[1]) + v[2]

    return without(form.assemble(basis), load.assemble(basis), basis.get_dofs())


def faces(n: int, beta: float) -> System:
    """Raviart and Thomas's faces on tetrahedra: -grad div u + beta u."""
    basis = fem.Basis(cube(n), fem.ElementTetRT0())

    @fem.BilinearForm
    def form(u, v, _):
        return div(u) * div(v) + beta * dot(u, v)

    @fem.LinearForm
    def load(v, w):
        return v[0] + w.x[0] * v[2]

    return without(form.assemble(basis), load.assemble(basis), basis.get_dofs())
