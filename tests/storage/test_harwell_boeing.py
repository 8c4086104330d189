"""Harwell-Boeing files are read as they were meant, or refused."""

from __future__ import annotations

import bz2
import gzip
import lzma

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from hpc_sla.errors import InputError
from hpc_sla.storage.importers import read_source
from tests.storage.files import DENSE, SYMMETRIC, dense, refused


def boeing(kind, shape, starts, rows, values, formats="(4I3)           (4I3)           ", rhs=""):
    """A file by hand; `formats` and `values` as they are to stand there."""
    rows_text, starts_text = (
        "\n".join("".join(f"{i:3d}" for i in part) for part in zip_lines(numbers, 4))
        for numbers in (rows, starts)
    )
    value_format, body = values
    lines = [
        f"{'a title':<72}{'KEY':<8}",
        f"{9:14d}{1:14d}{1:14d}{1:14d}" + (f"{1:14d}" if rhs else ""),
        f"{kind:<14}{shape[0]:14d}{shape[1]:14d}{len(rows):14d}{0:14d}",
        f"{formats}{value_format:<20}{value_format if rhs else '':<20}",
        *([f"F             {1:14d}{0:14d}"] if rhs else []),
        starts_text,
        rows_text,
        *([body] if body else []),
        *([rhs] if rhs else []),
    ]
    return "\n".join(lines) + "\n"


def zip_lines(numbers, count):
    return [numbers[k : k + count] for k in range(0, len(numbers), count)]


CASES = {
    # DENSE by columns; SYMMETRIC's lower triangle
    "rua": (DENSE, [1, 3, 4, 5], [1, 3, 2, 1], ""),
    "rsa": (SYMMETRIC, [1, 3, 5, 6], [1, 2, 2, 3, 3], "     4.0     -1.     4.0    -1.0\n     4.0"),
}


@pytest.mark.parametrize("packed", ["", ".gz", ".bz2", ".xz"])
@pytest.mark.parametrize("suffix", [".rb", ".hb", ".RB", "own"])
@pytest.mark.parametrize("kind", ["rua", "rsa"])
def test_harwell_boeing(tmp_path, kind, suffix, packed):
    expected, starts, rows, body = CASES[kind]
    value_format = "(4E9.2)" if kind == "rua" else "(4F8.1)"
    if kind == "rua":
        body = " 0.40E+01 0.70D+010.250+001-1.00E+00"
    text = boeing(kind, (3, 3), starts, rows, (value_format, body))
    pack = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[packed]
    path = tmp_path / f"m{suffix.replace('own', '.' + kind)}{packed}"
    path.write_bytes(pack(text.encode()))
    np.testing.assert_array_equal(dense(path), expected)


def test_numbers_without_blanks_between_them(tmp_path):
    """Splitting at blanks, SciPy's reader sees 12 and 3-4."""
    path = tmp_path / "m.rua"
    path.write_text(boeing("RUA", (2, 1), [1, 3], [1, 2], ("(2E11.3)", " -1.500E-99-2.500-100")))
    np.testing.assert_array_equal(dense(path), [[-1.5e-99], [-2.5e-100]])
    path.write_text(
        boeing("rua", (2, 1), [1, 3], [1, 2], ("(1P,2D12.3)", " -1.500D+001 2.500D+00"))
    )
    np.testing.assert_array_equal(dense(path), [[-15], [2.5]])


def test_patterns_integers_skew_and_right_hand_sides(tmp_path):
    path = tmp_path / "m.rb"
    path.write_text(boeing("psa", (2, 2), [1, 3, 3], [1, 2], ("", "")))
    np.testing.assert_array_equal(dense(path), [[1, 1], [1, 0]])
    path.write_text(boeing("iua", (2, 2), [1, 2, 3], [1, 2], ("(2I4)", "  12  -7")))
    np.testing.assert_array_equal(dense(path), [[12, 0], [0, -7]])
    path.write_text(boeing("rza", (2, 2), [1, 2, 2], [2], ("(2F4.1)", " 1.5")))
    np.testing.assert_array_equal(dense(path), [[0, -1.5], [1.5, 0]])
    path.write_text(boeing("rra", (1, 2), [1, 2, 3], [1, 1], ("(2F4.1)", " 1.5 2.5")))
    np.testing.assert_array_equal(dense(path), [[1.5, 2.5]])
    text = boeing("rua", (2, 2), [1, 2, 3], [1, 2], ("(2F4.1)", " 1.5 2.5"), rhs=" 8.0 9.0")
    path.write_text(text)
    assert read_source(path).rhs.tolist() == [8, 9]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("exponents", [[0], [-120, -3, 0, 5, 30], [-30, 150]])
def test_what_scipy_writes_as_harwell_boeing(tmp_path, dtype, exponents):
    """Of either sign, with exponents of two and three digits: a character narrower than it says."""
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 20):
        a = sp.random_array((n, n), density=0.4, rng=rng, format="csc") + sp.eye_array(n)
        a = sp.csc_array(a)
        a.data = rng.standard_normal(len(a.data)) * 10.0 ** rng.choice(exponents, len(a.data))
        if dtype is np.float32:
            a.data = np.clip(a.data, -1e38, 1e38)
        a = a.astype(dtype)
        scipy.io.hb_write(tmp_path / "m.rua", a)
        rtol = 1e-15 if dtype is np.float64 else 1e-6
        np.testing.assert_allclose(dense(tmp_path / "m.rua"), a.toarray(), rtol=rtol, atol=1e-44)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "cua"}, ["complex"]),
        ({"kind": "rse"}, ["element matrices", "Assemble"]),
        ({"kind": "xyz"}, ["'xyz'"]),
        ({"kind": "rsa", "shape": (2, 3)}, ["2 x 3"]),
        ({"kind": "rsa", "starts": [1, 2, 3], "rows": [2, 1]}, ["both triangles", "rua"]),
        ({"kind": "rza"}, ["diagonal"]),
        ({"starts": [1, 2, 4]}, ["pointers"]),
        ({"starts": [1, 4, 3]}, ["pointers"]),
        ({"starts": [2, 2, 3]}, ["pointers"]),
        ({"rows": [1, 3]}, ["outside 1 to 2"]),
        ({"rows": [0, 1]}, ["outside 1 to 2"]),
        ({"values": ("(2F4.1)", " 1.5")}, ["line 7"]),
        ({"values": ("(2F4.1)", " 1.51.2.")}, ["'1.2.' is not a number", "line 7"]),
        ({"values": ("(2F4.1)", " 1.5 nan")}, ["'nan' is not a finite number"]),
        ({"values": ("(2F4.1)", "****1.50")}, ["'****'", "too wide"]),
        ({"values": ("(2F4.1)", " 1.5  15")}, ["'15' means different things"]),
        ({"values": ("(2F4.1)", " 1.5 2.5 3.5")}, ["more than 2 numbers"]),
        ({"values": ("(2F4.1)", " 12.5 3.5")}, ["'5 3.' is not a number"]),
        ({"values": ("(2Z4)", " 1.5 2.5")}, ["formats"]),
        ({"values": ("(1P2F4.1)", " 1.5 2.5")}, ["'1.5' means different things"]),
        ({"kind": "iua", "values": ("(2F4.1)", " 1.5 2.5")}, ["'1.5' is not an integer"]),
    ],
)
def test_harwell_boeing_that_is_refused(tmp_path, changes, words):
    good = {
        "kind": "rua",
        "shape": (2, 2),
        "starts": [1, 2, 3],
        "rows": [1, 2],
        "values": ("(2F4.1)", " 1.5 2.5"),
    }
    path = tmp_path / "m.rb"
    path.write_text(boeing(**good))
    np.testing.assert_array_equal(dense(path), [[1.5, 0], [0, 2.5]])
    path.write_text(boeing(**{**good, **changes}))
    refused(path, *words)


def test_damaged_harwell_boeing(tmp_path):
    content = boeing("rsa", (3, 3), *CASES["rsa"][1:3], ("(4F8.1)", CASES["rsa"][3])).encode()
    rng = np.random.default_rng(0)
    path = tmp_path / "m.rsa"
    for _ in range(80):
        spoilt = bytearray(content)
        spoilt[int(rng.integers(0, len(content)))] = int(rng.integers(1, 256))
        path.write_bytes(spoilt[: int(rng.integers(0, 2 * len(content)))])
        try:
            read_source(path)
        except InputError as error:
            assert error.file == str(path)
