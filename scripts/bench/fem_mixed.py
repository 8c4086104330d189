"""Saddle points: flows, mixed diffusion, ties by multipliers. Each gives (A, b, known)."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as sla
import skfem as fem
from fem_scalar import System, cube, square, without
from skfem.helpers import dot, grad
from skfem.models.elasticity import lame_parameters, linear_elasticity
from skfem.models.general import divergence
from skfem.models.poisson import laplace, mass, unit_load, vector_laplace


def _flow(mesh: fem.Mesh, element: fem.Element) -> tuple[fem.Basis, fem.Basis, sp.csr_matrix]:
    u = fem.Basis(mesh, fem.ElementVector(element), intorder=4)
    pressure = fem.ElementTetP1() if mesh.dim() == 3 else fem.ElementTriP1()
    p = fem.Basis(mesh, pressure, intorder=4)
    return u, p, -divergence.assemble(u, p)


def _assembled(A: sp.spmatrix, B: sp.spmatrix) -> sp.csr_matrix:
    return sp.bmat([[A, B.T], [B, None]], format="csr")


def _lid(u: fem.Basis, size: int) -> np.ndarray:
    """Values: the lid slides, 0 elsewhere."""
    lid = u.get_dofs(lambda x: np.isclose(x[1], 1)).all("u^1")
    values = np.zeros(size)
    values[lid] = 4 * u.doflocs[0, lid] * (1 - u.doflocs[0, lid])
    return values


def cavity(n: int, pinned: bool) -> System:
    """Stokes by Taylor and Hood under a sliding lid; the pressure free, or held at one place."""
    u, _, B = _flow(square(n), fem.ElementTriP2())
    A = _assembled(vector_laplace.assemble(u), B)
    D = u.get_dofs().all()
    if pinned:
        D = np.append(D, u.N)
    return without(A, np.zeros(A.shape[0]), D, _lid(u, A.shape[0]))


def channel(n: int, element: str, viscosity: float = 1.0) -> System:
    """Stokes through a channel of length 3 that is open at its end."""
    mesh = fem.MeshTri.init_tensor(np.linspace(0, 3, 3 * n + 1), np.linspace(0, 1, n + 1))
    u, _, B = _flow(mesh, getattr(fem, element)())
    A = _assembled(viscosity * vector_laplace.assemble(u), B)
    inflow = u.get_dofs(lambda x: np.isclose(x[0], 0)).all("u^1")
    values = np.zeros(A.shape[0])
    values[inflow] = 4 * u.doflocs[1, inflow] * (1 - u.doflocs[1, inflow])
    held = u.get_dofs(lambda x: np.isclose(x[0], 0) | np.isclose(x[1], 0) | np.isclose(x[1], 1))
    return without(A, np.zeros(A.shape[0]), held.all(), values)


def duct(n: int) -> System:
    """Stokes in a duct of tetrahedra, Taylor and Hood, open at its end, driven by a force."""
    mesh = cube(n, lengths=(2, 1, 1))
    u, p, B = _flow(mesh, fem.ElementTetP2())
    A = _assembled(vector_laplace.assemble(u), B)

    @fem.LinearForm
    def push(v, _):
        return v[0]

    b = np.append(push.assemble(u), np.zeros(p.N))
    walls = mesh.facets_satisfying(lambda x: x[0] < 2 - 1e-9, boundaries_only=True)
    return without(A, b, u.get_dofs(walls).all())


def picard(n: int, reynolds: float, steps: int = 2) -> System:
    """The Navier-Stokes equations under a sliding lid: the system of a Picard step (Oseen's)."""
    u, _, B = _flow(square(n), fem.ElementTriP2())
    viscous = vector_laplace.assemble(u) / reynolds

    @fem.BilinearForm
    def convection(u, v, w):
        return dot(np.einsum("j...,ij...->i...", w["wind"], grad(u)), v)

    held = np.append(u.get_dofs().all(), u.N)
    A = _assembled(viscous, B)
    values = _lid(u, A.shape[0])
    free = np.setdiff1d(np.arange(A.shape[0]), held)
    x = values.copy()
    for _ in range(steps):
        system, b, _ = without(A, np.zeros(A.shape[0]), held, values)
        x[free] = sla.splu(system.tocsc()).solve(b)
        wind = u.interpolate(x[: u.N])
        A = _assembled(viscous + convection.assemble(u, wind=wind), B)
    return without(A, np.zeros(A.shape[0]), held, values)


def darcy(n: int, mesh: str, element: str, contrast: float = 1.0) -> System:
    """Mixed diffusion: fluxes by Raviart and Thomas, pressures that jump between cells."""
    cells = cube(n) if mesh == "tet" else square(n)
    inner = {"tet": fem.ElementTetP0, "tri": fem.ElementTriP0}[mesh]()
    if element == "ElementTriRT2":
        inner = fem.ElementTriP1DG()
    flux = fem.Basis(cells, getattr(fem, element)(), intorder=4)
    p = fem.Basis(cells, inner, intorder=4)
    middle = cells.p[:, cells.t].mean(axis=1)
    k = np.where(np.sin(9 * middle[0]) * np.sin(7 * middle[1]) > 0.3, contrast, 1.0)
    constant = fem.ElementTetP0() if mesh == "tet" else fem.ElementTriP0()
    resistance = fem.Basis(cells, constant, intorder=4).interpolate(1 / k)

    @fem.BilinearForm
    def flow(u, v, w):
        return w["r"] * dot(u, v)

    A = _assembled(flow.assemble(flux, r=resistance), divergence.assemble(flux, p))
    return A, np.append(np.zeros(flux.N), -unit_load.assemble(p)), {}


def mini(n: int) -> System:
    """Stokes by the MINI element, driven by a force in a closed box, pressure free: singular."""
    u, p, B = _flow(square(n), fem.ElementTriMini())
    A = _assembled(vector_laplace.assemble(u), B)

    @fem.LinearForm
    def push(v, w):
        return w.x[1] * v[0] - w.x[0] ** 2 * v[1]

    b = np.append(push.assemble(u), np.zeros(p.N))
    return without(A, b, u.get_dofs().all())


def tied(n: int, elastic: bool) -> System:
    """Two blocks glued along a side by a multiplier for each pair of unknowns."""
    left = square(n)
    right = left.translated((1.0, 0.0))
    element = fem.ElementVector(fem.ElementTriP1()) if elastic else fem.ElementTriP1()
    bases = [fem.Basis(mesh, element) for mesh in (left, right)]

    @fem.LinearForm
    def load(v, _):
        return -1e4 * v[1] if elastic else v

    blocks, loads, places = [], [], []
    for basis, stiffness in zip(bases, (1e9, 2.1e11) if elastic else (1.0, 100.0), strict=True):
        form = linear_elasticity(*lame_parameters(stiffness, 0.3)) if elastic else laplace
        A = form.assemble(basis) if elastic else stiffness * form.assemble(basis)
        blocks.append(sp.csr_matrix(A))
        loads.append(load.assemble(basis))
        face = basis.get_dofs(lambda x: np.isclose(x[0], 1)).all()
        places.append(face[np.lexsort((face % 2 if elastic else 0 * face, basis.doflocs[1, face]))])
    m = len(places[0])
    gap = [
        sp.csr_matrix((np.full(m, sign), (np.arange(m), at)), shape=(m, basis.N))
        for sign, at, basis in zip((1.0, -1.0), places, bases, strict=True)
    ]
    A = sp.bmat(
        [[blocks[0], None, gap[0].T], [None, blocks[1], gap[1].T], [gap[0], gap[1], None]],
        format="csr",
    )
    b = np.concatenate([*loads, np.zeros(m)])
    return without(A, b, bases[0].get_dofs(lambda x: np.isclose(x[0], 0)).all())


def biharmonic(n: int) -> System:
    """Ciarlet and Raviart's clamped plate: the bending moment beside the deflection."""
    basis = fem.Basis(square(n), fem.ElementTriP2())
    M, K = mass.assemble(basis), laplace.assemble(basis)
    A = sp.bmat([[M, -K], [-K, None]], format="csr")
    b = np.append(np.zeros(basis.N), -unit_load.assemble(basis))
    return without(A, b, basis.N + basis.get_dofs().all())


def control(n: int, alpha: float) -> System:
    """The optimality system of a heated plate that is to follow a wanted temperature."""
    basis = fem.Basis(square(n), fem.ElementTriP1())
    D = basis.get_dofs()
    (K, f, _), (M, _, _) = (
        without(form.assemble(basis), unit_load.assemble(basis), D) for form in (laplace, mass)
    )
    A = sp.bmat([[M, None, K], [None, alpha * M, -M], [K, -M, None]], format="csr")
    return A, np.concatenate([f, 0 * f, 0 * f]), {}
