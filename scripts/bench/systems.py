"""The list of systems: what each is called, what kind it is of, and how it is assembled.

Of most there are two, `NAME-s` below and `NAME-l` above `SMALL` rows.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

SMALL = 20_000
"""Rows from which a system is a large one."""


@dataclass(frozen=True)
class System:
    """One system; `source` is "module:function" beside this file, called with `arguments`."""

    name: str
    kind: str
    source: str
    arguments: tuple[Any, ...]

    @property
    def large(self) -> bool:
        return self.name.endswith("-l")

    def build(self) -> tuple[sp.csr_matrix, np.ndarray, dict[str, Any]]:
        """A float64, b, and what the user is taken to know of A besides.

        Raises
        ------
        ImportError
            scikit-fem or pyamg is not installed.
        """
        module, function = self.source.split(":")
        A, b, known = getattr(importlib.import_module(module), function)(*self.arguments)
        A = sp.csr_matrix(A, dtype=np.float64)
        A.sum_duplicates()
        b = np.asarray(b, dtype=np.float64).ravel()
        assert A.shape == (len(b), len(b)) and np.isfinite(A.data).all() and np.isfinite(b).all()
        assert (len(b) >= SMALL) == self.large, f"{self.name} has {len(b)} rows"
        return A, b, known


def _two(
    name: str, kind: str, source: str, small: tuple | None = None, large: tuple | None = None
) -> list[System]:
    sizes = {"s": small, "l": large}
    return [System(f"{name}-{size}", kind, source, a) for size, a in sizes.items() if a is not None]


def _all() -> list[System]:
    S, V, M, G, N = "fem_scalar:", "fem_vector:", "fem_mixed:", "gallery:", "networks:"
    table: list[tuple] = [
        # scikit-fem, one unknown a place
        ("disc_enforce", "diffusion", S + "disc", (6, "enforce", 1.0), (7, "enforce", 2e11)),
        ("disc_penalty", "diffusion", S + "disc", (6, "penalize", 1e-10), (7, "penalize", 50.0)),
        ("lshape_p1", "diffusion", S + "lshape", None, (7, "ElementTriP1")),
        ("lshape_p2", "diffusion", S + "lshape", (5, "ElementTriP2"), (6, "ElementTriP2")),
        ("lshape_p3", "diffusion", S + "lshape", (4, "ElementTriP3"), (5, "ElementTriP3")),
        ("hex_q1", "diffusion", S + "bricks", (20, "ElementHex1"), (34, "ElementHex1")),
        ("hex_q2", "diffusion", S + "bricks", (8, "ElementHex2"), (15, "ElementHex2")),
        ("tet_p2_robin", "diffusion", S + "tetrahedra_robin", (10, 10.0), (15, 0.1)),
        ("crouzeix_raviart", "diffusion", S + "bubbles", (4,), (6,)),
        ("interior_penalty", "diffusion", S + "interior_penalty", (40,), (70,)),
        ("aniso_3", "anisotropy", S + "diffusion", (80, 1e-3), (180, 1e-3)),
        ("aniso_6", "anisotropy", S + "diffusion", (80, 1e-6), (180, 1e-6)),
        ("aniso_3_turned", "anisotropy", S + "diffusion", (80, 1e-3, 30.0), (180, 1e-3, 30.0)),
        ("aniso_6_turned", "anisotropy", S + "diffusion", (80, 1e-6, 30.0), None),
        ("jumps_board", "jumps", S + "jumps", (64, 1e8, "chequerboard"),
         (200, 1e8, "chequerboard")),
        ("jumps_cells", "jumps", S + "jumps", (16, 1e8, "cells"), (30, 1e8, "cells")),
        ("wind_1e2", "advection", S + "wind", (80, 1e2, False), (170, 1e2, False)),
        ("wind_1e4", "advection", S + "wind", (80, 1e4, False), (170, 1e4, False)),
        ("wind_1e4_supg", "advection", S + "wind", (80, 1e4, True), (170, 1e4, True)),
        ("wind_turning", "advection", S + "wind", (80, 1e3, True, True), (170, 1e3, True, True)),
        ("helmholtz_5", "helmholtz", S + "waves", (40, 5.0), (90, 5.0)),
        ("helmholtz_20", "helmholtz", S + "waves", (50, 20.0), (90, 20.0)),
        ("helmholtz_60", "helmholtz", S + "waves", (60, 60.0), (110, 60.0)),
        ("neumann_2d", "singular", S + "insulated", (45, 2), (90, 2)),
        ("neumann_3d", "singular", S + "insulated", (14, 3), (30, 3)),
        ("neumann_mean", "saddle", S + "insulated_held", (60,), (160,)),
        ("torus", "singular", S + "periodic", (40, 0.0), (160, 0.0)),
        ("torus_reaction", "diffusion", S + "periodic", (45, 1.0), None),
        ("strip_tied", "diffusion", S + "periodic_tied", (80,), (170,)),
        ("bodies", "diffusion", S + "bodies", (30, 4), (70, 5)),
        ("mass_tet_p2", "mass", S + "mass_matrix", (10, "ElementTetP2"), (15, "ElementTetP2")),
        ("mass_graded", "mass", S + "mass_matrix", (30, "ElementTriP3", True), None),
        ("heat_step", "mass", S + "backward_euler", (50, 1e-4), (90, 1e-1)),
        # scikit-fem, several unknowns a place
        ("bar_enforce", "elasticity", V + "bar", (7, "tet", "enforce"), (15, "tet", "enforce")),
        ("bar_hex", "elasticity", V + "bar", (6, "hex", "condense"), (12, "hex", "penalize")),
        ("bar_known", "elasticity", V + "bar", (7, "tet", "condense", 0.3, True),
         (12, "hex", "condense", 0.3, True)),
        ("composite", "elasticity", V + "composite", (50,), (110,)),
        ("composite_known", "elasticity", V + "composite", (60, True), None),
        ("rubber", "elasticity", V + "rubber", (30, False), (60, False)),
        ("rubber_mixed", "saddle", V + "rubber", (30, True), (55, True)),
        ("plate_morley", "plate", V + "plate", (40, "ElementTriMorley"), (75, "ElementTriMorley")),
        ("plate_bfs", "plate", V + "plate", (30, "ElementQuadBFS"), (75, "ElementQuadBFS")),
        ("plate_thick", "plate", V + "thick_plate", (30, 0.01), (45, 0.1)),
        ("rail", "frame", V + "beam_on_soil", (1500,), (15000,)),
        ("frame", "frame", V + "frame", (60, 20), (100, 80)),
        ("nedelec", "edges", V + "edges", (10, 1.0), (18, 1.0)),
        ("nedelec_weak", "edges", V + "edges", (10, 1e-4), None),
        ("raviart_thomas", "faces", V + "faces", (8, 1.0), (14, 1.0)),
        # scikit-fem, saddle points
        ("cavity", "saddle", M + "cavity", (25, False), (55, False)),
        ("cavity_pinned", "saddle", M + "cavity", (30, True), None),
        ("channel", "saddle", M + "channel", (14, "ElementTriP2", 1.0), (34, "ElementTriP2", 1e-3)),
        ("duct", "saddle", M + "duct", (5,), (8,)),
        ("picard_100", "saddle", M + "picard", (30, 100.0), (55, 100.0)),
        ("picard_1000", "saddle", M + "picard", (40, 1000.0), None),
        ("darcy_rt0", "saddle", M + "darcy", (40, "tri", "ElementTriRT0", 1e4),
         (75, "tri", "ElementTriRT0", 1e4)),
        ("darcy_bdm", "saddle", M + "darcy", (25, "tri", "ElementTriBDM1"), None),
        ("darcy_tet", "saddle", M + "darcy", (8, "tet", "ElementTetRT0"),
         (12, "tet", "ElementTetRT0")),
        ("mini", "saddle", M + "mini", (30,), (70,)),
        ("tied", "saddle", M + "tied", (50, False), (105, False)),
        ("tied_elastic", "saddle", M + "tied", (35, True), (75, True)),
        ("biharmonic", "saddle", M + "biharmonic", (35,), None),
        ("control", "saddle", M + "control", (45, 1e-4), (90, 1e-4)),
        # pyamg
        ("poisson_2d", "gallery", G + "poisson", (100, 100), (316, 316)),
        ("poisson_3d", "gallery", G + "poisson", (22, 22, 22), (46, 46, 46)),
        ("stencil_27", "gallery", G + "stencil", (20, "27 points"), (36, "27 points")),
        ("stencil_13", "gallery", G + "stencil", (60, "13 points"), (150, "13 points")),
        ("stencil_mixed", "gallery", G + "stencil", (90, "mixed"), None),
        ("diffusion_fd", "gallery", G + "diffusion", (100, 1e-3, 45.0, "FD"),
         (220, 1e-3, 45.0, "FD")),
        ("diffusion_fe", "gallery", G + "diffusion", (100, 1e-2, 60.0, "FE"), None),
        ("elasticity_q1", "gallery", G + "elasticity", (60, 60), (150, 150)),
        ("elasticity_q1_known", "gallery", G + "elasticity", None, (130, 130, True)),
        ("elasticity_p1", "gallery", G + "elasticity_triangles", (60,), None),
        ("upwind", "gallery", G + "upwind", (100, 30.0), (200, 30.0)),
        ("shifted", "gallery", G + "shifted", (80, 0.05), (150, 0.02)),
        ("example_bar", "example", G + "example", ("bar",)),
        ("example_airfoil", "example", G + "example", ("airfoil",)),
        ("example_knot", "example", G + "example", ("knot",)),
        ("example_recirc", "example", G + "example", ("recirc_flow",)),
        ("example_ldg", "example", G + "example", ("local_disc_galerkin_diffusion",)),
        ("example_square", "example", G + "example", ("unit_square",)),
        # graphs, circuits, chains
        ("graph_grid", "graph", N + "graph", (80, "grid", 1e-3, 4.0), (200, "grid", 1e-3, 4.0)),
        ("graph_grid_singular", "graph", N + "graph", (80, "grid", 0.0), None),
        ("graph_near", "graph", N + "graph", (5000, "geometric", 1e-4), (40000, "geometric", 1e-4)),
        ("graph_near_singular", "graph", N + "graph", (5000, "geometric", 0.0),
         (40000, "geometric", 0.0)),
        ("graph_hubs", "graph", N + "graph", (5000, "attached", 1e-3), (40000, "attached", 1e-3)),
        ("graph_hubs_singular", "graph", N + "graph", (5000, "attached", 0.0), None),
        ("resistors", "circuit", N + "resistors", (60, 0.02), (180, 0.02)),
        ("sources", "circuit", N + "sources", (60, False), (150, False)),
        ("controlled", "circuit", N + "sources", (60, True), (150, True)),
        ("pagerank_85", "markov", N + "pages", (5000, 0.85), (50000, 0.85)),
        ("pagerank_99", "markov", N + "pages", (5000, 0.99), None),
        ("pagerank_9999", "markov", N + "pages", (5000, 0.9999), (50000, 0.9999)),
        ("queues", "markov", N + "queues", (60,), (150,)),
    ]  # fmt: skip
    return [system for row in table for system in _two(*row)]


SYSTEMS = {system.name: system for system in _all()}


def save(system: System, path: Path) -> None:
    """Build it, and keep it where other processes can read it."""
    A, b, known = system.build()
    coordinates = known.pop("coordinates", np.zeros((0, 0)))
    arrays = {"indptr": A.indptr, "indices": A.indices, "data": A.data, "b": b}
    np.savez(path, coordinates=coordinates, known=json.dumps(known), **arrays)


def load(path: Path) -> tuple[sp.csr_matrix, np.ndarray, dict[str, Any]]:
    with np.load(path) as file:
        A = sp.csr_matrix((file["data"], file["indices"], file["indptr"]))
        known = json.loads(str(file["known"]))
        if file["coordinates"].size:
            known["coordinates"] = file["coordinates"]
        return A, file["b"], known
