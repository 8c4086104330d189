"""`export` onto meshes, read back by meshio and by VTK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpc_sla.cli import main
from hpc_sla.cli.prepare import load_source, write_partitioned
from hpc_sla.storage.matrix_file import MatrixFile
from tests.cli.test_results import here as here
from tests.cli.test_results import write

meshio = pytest.importorskip("meshio")
WRITTEN = (".vtu", ".vtkhdf")


def box(kind: str) -> Any:
    """The unit square or cube in cells of one kind, 3 points a side; of two for "mixed"."""
    if kind in ("triangle", "quad", "mixed"):
        y, x = np.mgrid[0:3, 0:3]
        points = np.column_stack([x.ravel(), y.ravel()]) / 2.0
        corner = np.array([0, 1, 3, 4])
        quads = corner[:, None] + np.array([0, 1, 4, 3])
        triangles = np.vstack([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
        cells = {
            "triangle": [("triangle", triangles)],
            "quad": [("quad", quads)],
            "mixed": [("quad", quads[:2]), ("triangle", triangles[[2, 3, 6, 7]])],
        }[kind]
        return meshio.Mesh(points, [("line", np.array([[0, 1], [1, 2]])), *cells])
    z, y, x = np.mgrid[0:3, 0:3, 0:3]
    points = np.column_stack([x.ravel(), y.ravel(), z.ravel()]) / 2.0
    corner = np.array([0, 1, 3, 4, 9, 10, 12, 13])
    cubes = corner[:, None] + np.array([0, 1, 4, 3, 9, 10, 13, 12])
    split = {
        "hexahedron": [list(range(8))],
        "wedge": [[0, 1, 2, 4, 5, 6], [0, 2, 3, 4, 6, 7]],
        "tetra": [
            [0, 1, 2, 6],
            [0, 2, 3, 6],
            [0, 3, 7, 6],
            [0, 7, 4, 6],
            [0, 4, 5, 6],
            [0, 5, 1, 6],
        ],
    }[kind]
    return meshio.Mesh(points, [(kind, np.vstack([cubes[:, part] for part in split]))])


def opened(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray], float]:
    """Points, fields on points and on cells, and the volume of all cells, as VTK has them."""
    pyvista = pytest.importorskip("pyvista")
    grid = pyvista.read(path)
    size = grid.compute_cell_sizes()
    measure = size["Volume"] if np.ptp(grid.points[:, 2]) else size["Area"]
    fields = (dict(grid.point_data), dict(grid.cell_data))
    return np.asarray(grid.points), *fields, float(np.sum(measure))


@pytest.mark.parametrize("suffix", WRITTEN)
@pytest.mark.parametrize("kind", ["triangle", "quad", "mixed", "tetra", "hexahedron", "wedge"])
def test_on_points_and_on_cells(here, kind, suffix):
    """A row a point, one for each of d unknowns of a point, and a row a cell."""
    mesh = box(kind)
    mesh.write("mesh.vtu")
    d = 3 if np.ptp(mesh.points[:, -1]) and mesh.points.shape[1] == 3 else 2
    n, cells = (
        len(mesh.points),
        sum(len(block.data) for block in mesh.cells if block.type != "line"),
    )
    rng = np.random.default_rng(0)
    for rows, width in ((n, 1), (d * n, d), (cells, None)):
        x = rng.standard_normal(rows)
        write(here / "r.h5", x)
        assert main(["export", "r.h5", "--mesh", "mesh.vtu", "-o", f"x{suffix}"]) == 0
        points, on_points, on_cells, volume = opened(here / f"x{suffix}")
        np.testing.assert_array_equal(points[:, : mesh.points.shape[1]], mesh.points)
        # VTK's wedge is described as we write it, and measured as if it were inside out.
        assert volume == pytest.approx(-1 if kind == "wedge" else 1), "turned inside out, or lost"
        if width is None:
            assert not on_points
            np.testing.assert_array_equal(on_cells["x"], x)
        else:
            assert not on_cells
            found = on_points["x"] if width == 1 else on_points["x"][:, :width]
            np.testing.assert_array_equal(found, x if width == 1 else x.reshape(n, width))
            assert width == 1 or not on_points["x"][:, width:].any()
        if suffix == ".vtu":
            again = meshio.read("x.vtu")
            kept = [block for block in mesh.cells if block.type != "line"]
            for ours, theirs in zip(again.cells, kept, strict=True):
                assert ours.type == theirs.type
                np.testing.assert_array_equal(ours.data, theirs.data)


@pytest.mark.parametrize("version", ["4.1", "2.2"])
def test_of_gmsh_and_of_modes(here, version):
    """A .msh file, whose boundary lines are left out, and vectors of several columns."""
    mesh = box("triangle")
    mesh.points = np.column_stack([mesh.points, np.zeros(9)])
    if version == "4.1":
        # meshio asks for Gmsh's own numbers where there are lines, too.
        mesh.cells = mesh.cells[1:]
    mesh.write("mesh.msh", file_format="gmsh" if version == "4.1" else "gmsh22", binary=False)
    V = np.random.default_rng(0).standard_normal((9, 2))
    write(here / "r.h5", V, "modes")
    assert main(["export", "r.h5", "--mesh", "mesh.msh", "-o", "x.vtu"]) == 0
    again = meshio.read("x.vtu")
    assert [block.type for block in again.cells] == ["triangle"]
    for column in range(2):
        np.testing.assert_array_equal(again.point_data[f"modes_{column}"], V[:, column])


@pytest.mark.parametrize("suffix", WRITTEN)
def test_rows_of_points_that_are_left(here, suffix):
    """Boundary points eliminated and rows numbered otherwise: what no row is of has no value."""
    box("quad").write("mesh.vtu")
    rng = np.random.default_rng(0)
    where = rng.permutation(9)[:5]
    x = rng.standard_normal(5)
    write(here / "r.h5", x)
    np.save("i.npy", where)
    command = ["export", "r.h5", "--mesh", "mesh.vtu", "--rows", "i.npy", "-o", f"x{suffix}"]
    assert main(command) == 0
    expected = np.full(9, np.nan)
    expected[where] = x
    np.testing.assert_array_equal(opened(here / f"x{suffix}")[1]["x"], expected)
    # Two unknowns of a point, of which some are held.
    pairs = np.array([[4, 1], [4, 0], [0, 1], [8, 0], [7, 0]])
    np.save("i.npy", pairs)
    assert main(command) == 0
    expected = np.full((9, 2), np.nan)
    expected[pairs[:, 0], pairs[:, 1]] = x
    np.testing.assert_array_equal(opened(here / f"x{suffix}")[1]["x"][:, :2], expected)


@pytest.mark.parametrize("suffix", WRITTEN)
@pytest.mark.parametrize("spec", ["poisson2d:n=6", "elasticity3d:n=3"])
def test_points_alone(here, spec, suffix):
    """Without a mesh: each node a vertex, its unknowns a vector."""
    write_partitioned(load_source(spec), "m.h5", 2, "metis")
    with MatrixFile("m.h5") as file:
        n, block, digest = file.n_rows, file.block_size, file.digest
        points = np.empty((n, file.read_coordinates(0, 0).shape[1]))
        points[file.read_permutation(0, n)] = file.read_coordinates(0, n)
    x = np.random.default_rng(0).standard_normal(n)
    write(here / "r.h5", x, input_digest=digest)
    assert main(["export", "r.h5", "-o", f"x{suffix}", "--matrix", "m.h5"]) == 0
    found, on_points, _, _ = opened(here / f"x{suffix}")
    np.testing.assert_array_equal(found[:, : points.shape[1]], points[::block])
    np.testing.assert_array_equal(on_points["x"], x if block == 1 else x.reshape(-1, block))


WRONG = {
    "no mesh": (["--mesh", "r.h5"], "meshio can read"),
    "text": (["--mesh", "text.msh"], "meshio can read"),
    "unknown suffix": (["--mesh", "text.txt"], "meshio can read"),
    "other sizes": (["--mesh", "mesh.vtu"], "9 points and 4 cells"),
    "too few rows": (["--mesh", "mesh.vtu", "--rows", "i.npy"], "names 3 rows of 16"),
    "numbers": (["--mesh", "mesh.vtu", "--rows", "x.npy"], "not whole numbers"),
    "outside": (["--mesh", "mesh.vtu", "--rows", "o.npy"], "outside 0 .. 8"),
    "twice": (["--mesh", "mesh.vtu", "--rows", "t.npy"], "names one place twice"),
    "rows of no mesh": (["--rows", "i.npy"], "goes with --mesh"),
    "no field": (["--mesh", "mesh.vtu", "-o", "x.xdmf"], "Write a .vtu or .vtkhdf"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be(here, case, capsys):
    box("quad").write("mesh.vtu")
    (here / "text.msh").write_text("nothing of the kind\n")
    (here / "text.txt").write_text("nothing of the kind\n")
    np.save("i.npy", np.arange(3))
    np.save("x.npy", np.linspace(0, 1, 16))
    np.save("o.npy", np.arange(16))
    np.save("t.npy", np.zeros(16, dtype=np.int64))
    write(here / "r.h5", np.ones(16))
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    arguments, words = WRONG[case]
    capsys.readouterr()
    assert main(["export", "r.h5", "-o", "x.vtu", *arguments]) == 2
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert words in line
    assert not told.out
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


def test_an_earlier_export_is_replaced_and_a_folder_is_not(here):
    box("quad").write("mesh.vtu")
    write(here / "r.h5", np.ones(9))
    for suffix in WRITTEN:
        for _ in range(2):
            assert main(["export", "r.h5", "--mesh", "mesh.vtu", "-o", f"x{suffix}"]) == 0
        (here / f"folder{suffix}").mkdir()
        assert main(["export", "r.h5", "--mesh", "mesh.vtu", "-o", f"folder{suffix}"]) == 2
    # The mesh itself is no output.
    assert main(["export", "r.h5", "--mesh", "mesh.vtu", "-o", "mesh.vtu"]) == 2
    assert len(meshio.read("mesh.vtu").cells) == 2
