"""What comes after a run: collect, diff, export, and results in other programs' hands."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from hpc_sla.checkpoint.file import CheckpointWriter
from hpc_sla.cli import main
from hpc_sla.cli.prepare import load_source, write_partitioned
from hpc_sla.storage.matrix_file import MatrixFile
from hpc_sla.storage.result_file import ResultWriter, read_result


def write(path: Path, x: np.ndarray, name: str = "x", **attributes: object) -> Path:
    columns = x.shape[1] if x.ndim == 2 else None
    with ResultWriter(path, len(x), x.dtype, (name,), columns) as writer:
        for start in range(0, len(x), 50_000):
            writer.write_slab(name, start, x[start : start + 50_000])
        values = None if name != "modes" else list(range(x.shape[1]))
        writer.finish([1.0, 1e-9], {"status": "converged", **attributes}, values)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# collect


def test_one_table_of_many_runs(here, capsys):
    for k in range(5):
        more = {"iterations": k, "rtol": 1e-8} if k % 2 else {"iterations": k, "note": 'a "b", c'}
        write(here / f"r{k}.h5", np.ones(3), config="[solve]", **more)
    assert main(["collect", *(f"r{k}.h5" for k in range(5))]) == 0
    table = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert list(table[0])[:4] == ["file", "status", "iterations", "n_rows"]
    assert [row["file"] for row in table] == [f"r{k}.h5" for k in range(5)]
    assert [row["iterations"] for row in table] == list("01234")
    assert [row["rtol"] for row in table] == ["", "1e-08", "", "1e-08", ""]
    assert table[0]["note"] == 'a "b", c'
    assert "config" not in table[0]


def test_a_folder_and_damaged_files_among_good_ones(here, capsys):
    (here / "runs").mkdir()
    write(here / "runs/a.h5", np.ones(3))
    write(here / "runs/b.h5", np.ones(3))
    write_partitioned(load_source("poisson2d:n=4"), here / "runs/m.h5", 1, "metis")
    with CheckpointWriter(here / "runs/c.h5") as checkpoint:
        checkpoint.finish({}, {}, {})
    with h5py.File(here / "runs/p.xdmf.h5", "w") as export:
        export.attrs["format"] = "hpc_sla.export"
    assert main(["collect", "runs", "-o", "t.csv"]) == 0
    assert len((here / "t.csv").read_text().splitlines()) == 3
    content = (here / "runs/b.h5").read_bytes()
    (here / "runs/b.h5").write_bytes(content[: len(content) // 2])
    assert main(["collect", "runs", "missing.h5"]) == 2
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 2
    assert [line.split(": ")[2] for line in told.err.splitlines()] == ["runs/b.h5", "missing.h5"]
    assert main(["collect", "runs", "-o", "t.xlsx"]) == 2
    assert main(["collect", "runs/a.h5", "-o", "no/t.csv"]) == 2


def test_parquet(here):
    pyarrow = pytest.importorskip("pyarrow.parquet")
    write(here / "a.h5", np.ones(3), iterations=3, loss=1, note="x")
    write(here / "b.h5", np.ones(3), iterations=4, loss=0.5)
    write(here / "c.h5", np.ones(3), iterations=5, note=7)
    assert main(["collect", "a.h5", "b.h5", "c.h5", "-o", "t.parquet"]) == 0
    table = pyarrow.read_table("t.parquet").to_pydict()
    assert table["iterations"] == [3, 4, 5]
    assert table["loss"] == [1.0, 0.5, None]
    assert table["note"] == ["x", None, "7"]


# diff


def test_diff(here, capsys):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300_000, 2))
    y = x + 1e-7 * rng.standard_normal(x.shape)
    write(here / "a.h5", x, ranks=2, date="then")
    write(here / "b.h5", x, ranks=2, date="now")
    write(here / "c.h5", y, ranks=4)
    assert main(["diff", "a.h5", "b.h5"]) == 0
    assert main(["diff", "a.h5", "b.h5", "--attributes"]) == 0
    assert "date" in capsys.readouterr().out
    assert main(["diff", "a.h5", "c.h5", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["agree"] is False
    np.testing.assert_allclose(
        told["vectors"]["x"]["relative"], np.linalg.norm(x - y) / np.linalg.norm(x), rtol=1e-12
    )
    assert told["vectors"]["x"]["largest"] == np.abs(x - y).max()
    assert told["attributes"]["ranks"] == [2, 4]
    assert main(["diff", "a.h5", "c.h5", "--rtol", "1e-6"]) == 0
    assert main(["diff", "a.h5", "c.h5", "--rtol", "1e-6", "--attributes"]) == 1
    assert main(["diff", "a.h5", "c.h5", "--rtol", "1e-8"]) == 1
    assert main(["diff", "a.h5", "c.h5", "--rtol", "-1"]) == 2
    assert main(["diff", "a.h5", "nowhere.h5"]) == 2


def test_diff_of_what_is_not_finite_or_not_alike(here, capsys):
    x = np.array([1.0, np.nan, np.inf, 0.0])
    for name, values in {
        "a": x,
        "b": x,
        "c": np.array([1.0, 2.0, np.inf, 0.0]),
        "d": np.array([1.0, np.nan, -np.inf, 0.0]),
        "e": np.ones(3),
        "zero": np.zeros(4),
        "single": np.zeros(4, dtype=np.float32),
    }.items():
        write(here / f"{name}.h5", values)
    assert main(["diff", "a.h5", "b.h5"]) == 0
    assert main(["diff", "zero.h5", "single.h5"]) == 0
    for other in ("c", "d", "e", "zero"):
        assert main(["diff", "a.h5", f"{other}.h5", "--rtol", "1e9"]) == 1, other
    assert "shapes 4 and 3" in capsys.readouterr().out


def test_eigenvectors_agree_up_to_their_signs(here):
    V = np.linalg.qr(np.random.default_rng(0).standard_normal((50, 3)))[0]
    write(here / "a.h5", V, "modes")
    write(here / "b.h5", V * [1, -1, 1], "modes")
    write(here / "c.h5", V[:, ::-1].copy(), "modes")
    assert main(["diff", "a.h5", "b.h5"]) == 0
    assert main(["diff", "a.h5", "c.h5", "--rtol", "0.1"]) == 1


# export


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(5,), (300_001,), (70_000, 3), (4, 1)])
def test_export_of_arrays(here, shape, dtype):
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    write(here / "r.h5", x)
    assert main(["export", "r.h5", "-o", "x.npy"]) == 0
    found = np.load("x.npy")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, x)
    if len(x) < 1e5:
        assert main(["export", "r.h5", "-o", "x.mtx"]) == 0
        read = scipy.io.mmread("x.mtx").astype(dtype)
        np.testing.assert_array_equal(read, x.reshape(len(x), -1))


@pytest.mark.parametrize("spec", ["poisson2d:n=9", "poisson3d:n=5", "elasticity3d:n=4"])
def test_export_for_paraview(here, spec):
    write_partitioned(load_source(spec), "m.h5", 3, "metis")
    with MatrixFile("m.h5") as file:
        n, block, digest = file.n_rows, file.block_size, file.digest
        points = np.empty((n, file.read_coordinates(0, 0).shape[1]))
        points[file.read_permutation(0, n)] = file.read_coordinates(0, n)
    x = np.random.default_rng(0).standard_normal(n)
    write(here / "r.h5", x, input_digest=digest)
    assert main(["export", "r.h5", "-o", "p.xdmf", "--matrix", "m.h5"]) == 0
    found = fields(here / "p.xdmf")
    np.testing.assert_array_equal(found["points"], points[::block])
    np.testing.assert_array_equal(found["vertices"][:, 0], np.arange(n // block))
    np.testing.assert_array_equal(found["x"], x if block == 1 else x.reshape(-1, block))
    np.save("c.npy", points[:, :2])
    assert main(["export", "r.h5", "-o", "q.xdmf", "--coordinates", "c.npy"]) == 0
    assert fields(here / "q.xdmf")["points"].shape == (n, 2)
    # Beside files of the same stem. An earlier export may be replaced, and nothing else.
    before = {name: (here / name).read_bytes() for name in ("r.h5", "m.h5")}
    for name in ("r", "m", "r"):
        assert main(["export", "r.h5", "-o", f"{name}.xdmf", "--matrix", "m.h5"]) == 0
        np.testing.assert_array_equal(fields(here / f"{name}.xdmf")["points"], points[::block])
    assert {name: (here / name).read_bytes() for name in before} == before
    (here / "s.xdmf.h5").write_bytes(before["m.h5"])
    assert main(["export", "r.h5", "-o", "s.xdmf", "--matrix", "m.h5"]) == 2
    assert (here / "s.xdmf.h5").read_bytes() == before["m.h5"]
    assert not (here / "s.xdmf").exists()


def test_points_of_nodes(here):
    """Coordinates with a point for each node of several unknowns."""
    x = np.random.default_rng(0).standard_normal(12)
    write(here / "r.h5", x)
    for width in (2, 3):
        np.save("c.npy", np.random.default_rng(1).random((12 // width, 3)))
        assert main(["export", "r.h5", "-o", "p.xdmf", "--coordinates", "c.npy"]) == 0
        found = fields(here / "p.xdmf")
        np.testing.assert_array_equal(found["points"], np.load("c.npy"))
        np.testing.assert_array_equal(found["x"][:, :width], x.reshape(-1, width))


def fields(path: Path) -> dict[str, np.ndarray]:
    """Everything an XDMF file refers to, each dataset as large as it says."""
    (grid,) = ET.parse(path).getroot().iter("Grid")
    found = {}
    names = {"Topology": "vertices", "Geometry": "points"}
    for part in grid:
        (item,) = part
        file, _, dataset = item.text.partition(":")
        with h5py.File(path.parent / file) as heavy:
            values = heavy[dataset][:]
        assert values.shape == tuple(map(int, item.get("Dimensions").split()))
        assert values.dtype.itemsize == int(item.get("Precision"))
        assert values.dtype.kind == {"Int": "i", "Float": "f"}[item.get("NumberType")]
        found[names.get(part.tag) or part.get("Name")] = values
    topology, geometry = grid.find("Topology"), grid.find("Geometry")
    assert topology.get("TopologyType") == "Polyvertex"
    assert int(topology.get("NumberOfElements")) == len(found["points"])
    width = {"XY": 2, "XYZ": 3}[geometry.get("GeometryType")]
    assert found["points"].shape[1] == width
    for part in grid.findall("Attribute"):
        assert found[part.get("Name")].ndim == {"Scalar": 1, "Vector": 2}[part.get("AttributeType")]
        assert len(found[part.get("Name")]) == len(found["points"])
    return found


def test_modes_on_a_line_and_odd_names(here):
    V = np.random.default_rng(0).standard_normal((12, 2))
    write(here / "r.h5", V, 'a<b>"&:c')
    np.save("c.npy", np.linspace(0, 1, 12))
    assert main(["export", "r.h5", "-o", "p.xdmf", "--coordinates", "c.npy"]) == 0
    found = fields(here / "p.xdmf")
    for column in range(2):
        np.testing.assert_array_equal(found[f'a<b>"&:c_{column}'], V[:, column])


EXPORT_WRONG = {
    "unknown suffix": (["-o", "x.vtk"], ".npy, .mtx, .xdmf"),
    "no such vector": (["-o", "x.npy", "--vector", "y"], "It has: x."),
    "no coordinates": (["-o", "x.xdmf"], "--matrix FILE.h5 or --coordinates"),
    "another matrix": (["-o", "x.xdmf", "--matrix", "m.h5"], "digests differ"),
    "other points": (["-o", "x.xdmf", "--coordinates", "c.npy"], "each of 3 points"),
    "no matrix": (["-o", "x.xdmf", "--matrix", "r.h5"], "a matrix file is needed"),
    "no folder": (["-o", "no/x.npy"], "no"),
}


@pytest.mark.parametrize("case", EXPORT_WRONG)
def test_export_of_what_cannot_be(here, case, capsys):
    write_partitioned(load_source("poisson2d:n=4"), "m.h5", 1, "metis")
    write(here / "r.h5", np.ones(16), input_digest="0" * 64, input="/somewhere/m.h5")
    before = (here / "r.h5").read_bytes()
    np.save("c.npy", np.ones((3, 2)))
    np.save("d.npy", np.ones((16, 2)))
    arguments, words = EXPORT_WRONG[case]
    assert main(["export", "r.h5", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert (here / "r.h5").read_bytes() == before
    assert sorted(path.name for path in here.iterdir()) == ["c.npy", "d.npy", "m.h5", "r.h5"]


# other programs


def test_xarray_reads_results(here):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    V = np.random.default_rng(0).standard_normal((20, 3))
    write(here / "r.h5", V, "modes", rtol=1e-8)
    with xarray.open_dataset("r.h5", engine="h5netcdf") as found:
        assert found["modes"].dims == ("row", "column")
        assert found["eigenvalues"].dims == ("column",)
        assert found["residual_history"].dims == ("iteration",)
        np.testing.assert_array_equal(found["modes"].values, V)
        assert found.attrs["rtol"] == 1e-8
        assert found.attrs["status"] == "converged"


def test_dimensions_take_no_room_and_are_not_vectors(here):
    write(here / "r.h5", np.ones(200_000))
    with h5py.File("r.h5") as file:
        assert file["row"].id.get_storage_size() == 0
        assert file["x"].dims[0][0].name == "/row"
    assert (here / "r.h5").stat().st_size < 2.2e6  # two chunks of x
    assert list(read_result("r.h5").vectors) == ["x"]


def test_version_1_has_no_dimensions(here):
    write(here / "r.h5", np.ones(3))
    with h5py.File("r.h5", "r+") as file:
        file["x"].dims[0].detach_scale(file["row"])
        file["residual_history"].dims[0].detach_scale(file["iteration"])
        del file["row"], file["iteration"]
        file.attrs["version"] = 1
    np.testing.assert_array_equal(read_result("r.h5").x, np.ones(3))
