"""MatrixMarket: what is read is what was written, to the last character, or it is refused."""

from __future__ import annotations

import bz2
import gzip
import lzma

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_sla.errors import InputError
from hpc_sla.storage import matrix_market_lines
from hpc_sla.storage.importers import read_source, read_vector

GENERAL = "coordinate real general"


def market(path, kind, body):
    path.write_bytes(f"%%MatrixMarket matrix {kind}\n{body}\n".encode())
    return path


def dense(path):
    return read_source(path).matrix.toarray()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.mtx"


SPELLINGS = {
    "1": 1,
    "+1": 1,
    "1.": 1,
    ".5": 0.5,
    "-.5": -0.5,
    "+0.5e+01": 5,
    "007.50": 7.5,
    "1E5": 1e5,
    "1e-5": 1e-5,
    "0.4D+01": 4,
    "1D0": 1,
    "1d0": 1,
    "-1.5d-03": -1.5e-3,
    ".1D1": 1,
    "0.10000000-149": 1e-150,
    "-0.10000000+151": -1e150,
    "1.-300": 1e-300,
    ".1-299": 1e-300,
    "1e-400": 0,
    "0.1-399": 0,
    "4.9e-324": 4.9e-324,
    "-0": 0,
    "0.1000000000000000055511151231257827021181583404541015625": 0.1,
    "123456789012345678901234567890": 123456789012345678901234567890.0,
}
REFUSED = [
    *("1.2.3", "3-4", "1e", "1e+", "e5", ".", "+", "-", "--1", "+-1", "1-", "1.5-10", "1.5-1000"),
    *("1-149", "0x10", "1_000", "1,5", "1e5.0", "1e5e5", "1e5-5", "1d", "1dd5", "1f", "1j", "1/2"),
    *("nan", "-nan", "NaN", "inf", "+Inf", "-Infinity", "nan(1)", "****", "1e400", "1.0+999"),
    *("one", "\u0661", "1\x00", "1;", "'1'", "1L", "1%", "9" * 400),
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_spellings_of_a_number(path, text):
    market(path, GENERAL, f"2 2 2\n1 1 {text}\n2 2 3")
    np.testing.assert_array_equal(dense(path), [[SPELLINGS[text], 0], [0, 3]])
    market(path, "array real general", f"2 1\n{text}\n3")
    np.testing.assert_array_equal(read_vector(path), [SPELLINGS[text], 3])


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_number_is_refused_with_its_line(path, text):
    for kind, body, line in (
        (GENERAL, f"% one\n\n2 2 2\n1 1 1\n2 2 {text}", 6),
        ("array real general", f"1 1\n{text}", 3),
    ):
        market(path, kind, body)
        with pytest.raises(InputError) as caught:
            read_source(path)
        assert caught.value.file == str(path)
        assert caught.value.field == f"line {line}", caught.value
        assert text[:30].encode().decode("latin-1").split("\x00")[0] in caught.value.problem
        assert caught.value.remedy


@pytest.mark.parametrize(
    ("kind", "line", "words"),
    [
        ("coordinate integer general", "1 1 3.7", ["'3.7'", "integer", "real in the header"]),
        ("coordinate integer general", "1 1 3.0", ["'3.0'", "integer"]),
        ("coordinate integer general", "1 1 1e3", ["'1e3'", "integer"]),
        ("coordinate integer symmetric", "1 1 1.2.3", ["'1.2.3' is not a number"]),
        ("array integer general", "3.7", ["'3.7'", "integer"]),
        ("coordinate real general", "1.0 1 3", ["'1.0'", "whole numbers"]),
        ("coordinate real general", "1 1e0 3", ["'1e0'", "whole numbers"]),
        ("coordinate real general", "-1 1 3", ["'-1'", "count from 1"]),
        ("coordinate real general", "1 0x1 3", ["'0x1'"]),
        ("coordinate real general", "1_0 1 3", ["'1_0'"]),
        ("coordinate real general", "0 1 3", ["0 1 3"]),
        ("coordinate real general", "1 3 3", ["1 3 3"]),
        ("coordinate real general", "99999999999999999999999 1 3", ["99999999999999999999999 1 3"]),
        ("coordinate real general", "1 1 3 4", ["4 numbers instead of 3", "1 1 3 4"]),
        ("coordinate real general", "1 1 3 # x", ["5 numbers instead of 3"]),
        ("coordinate real general", "1 1", ["2 numbers instead of 3", "pattern"]),
        ("coordinate pattern general", "1 1 5", ["3 numbers instead of 2", "real"]),
        ("coordinate pattern general", "1", ["1 numbers instead of 2"]),
        ("coordinate pattern symmetric", "1 1.", ["'1.'"]),
        ("array real general", "1 2", ["2 numbers instead of 1"]),
        ("coordinate real general", "1 1\r3", ["'1 1\\r3'"]),
        ("coordinate real general", "1 1\x0b3", ["numbers"]),
    ],
)
def test_lines_that_are_refused(path, kind, line, words):
    sizes = "1 1" if kind.startswith("array") else "2 2 1"
    market(path, kind, f"{sizes}\n{line}")
    with pytest.raises(InputError) as caught:
        read_source(path)
    assert caught.value.field == "line 3"
    for word in words:
        assert word in str(caught.value)


BOTH = {
    "coordinate real symmetric": ("3 3 7\n1 1 4\n2 2 4\n3 3 4\n1 2 -1\n2 1 -1\n2 3 -1\n3 2 -1", 7),
    "coordinate integer symmetric": ("2 2 2\n% a comment\n2 1 5\n\n1 2 5", 6),
    "coordinate real skew-symmetric": ("2 2 2\n2 1 5\n1 2 -5", 4),
    "coordinate pattern symmetric": ("3 3 3\n3 3\n1 3\n3 1", 5),
    "coordinate real hermitian": ("3 3 4\n1 2 1\n3 1 1\n2 1 1\n2 1 1", 5),
}


@pytest.mark.parametrize("kind", BOTH)
def test_both_triangles_are_refused(path, kind):
    body, line = BOTH[kind]
    market(path, kind, body)
    with pytest.raises(InputError) as caught:
        read_source(path)
    assert caught.value.field == f"line {line}"
    assert "both triangles" in caught.value.problem
    assert "general" in caught.value.remedy
    i, j = body.split("\n")[line - 2].split()[:2]
    assert f"({i}, {j})" in caught.value.problem


def test_entries_in_either_triangle_and_repeated_ones_are_read(path):
    market(path, "coordinate real symmetric", "3 3 5\n2 1 1\n2 1 2\n1 3 5\n3 3 4\n3 3 1")
    np.testing.assert_array_equal(dense(path), [[0, 3, 5], [3, 0, 0], [5, 0, 5]])
    market(path, "coordinate real skew-symmetric", "3 3 3\n1 2 1\n3 1 2\n2 2 0")
    np.testing.assert_array_equal(dense(path), [[0, 1, -2], [-1, 0, 0], [2, 0, 0]])
    market(path, "coordinate real hermitian", "2 2 2\n2 1 -1\n2 2 4")
    np.testing.assert_array_equal(dense(path), [[0, -1], [-1, 4]])
    market(path, GENERAL, "2 2 4\n1 2 1\n2 1 1\n1 2 1\n2 1 1")
    np.testing.assert_array_equal(dense(path), [[0, 2], [2, 0]])


def test_a_skew_diagonal_is_refused(path):
    market(path, "coordinate real skew-symmetric", "2 2 2\n2 1 1\n2 2 3")
    with pytest.raises(InputError) as caught:
        read_source(path)
    assert caught.value.field == "line 4"
    market(path, "coordinate pattern skew-symmetric", "2 2 1\n2 1")
    with pytest.raises(InputError, match="pattern skew-symmetric"):
        read_source(path)


@pytest.mark.parametrize("symmetry", ["general", "symmetric", "skew-symmetric", "hermitian"])
def test_arrays_of_every_symmetry(path, symmetry):
    a = np.arange(1.0, 17).reshape(4, 4)
    a = {"general": a, "skew-symmetric": a - a.T}.get(symmetry, a + a.T)
    scipy.io.mmwrite(path, a, symmetry="symmetric" if symmetry == "hermitian" else symmetry)
    path.write_text(path.read_text().replace(" symmetric", f" {symmetry}", 1))
    np.testing.assert_array_equal(dense(path), a)
    np.testing.assert_array_equal(read_vector(path), a)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("array real skew-symmetric", (1, 1)),
        ("array real skew-symmetric", (0, 0)),
        ("array integer symmetric", (0, 0)),
        ("array real general", (0, 3)),
        ("array real general", (3, 0)),
    ],
)
def test_arrays_without_a_number(path, kind, sizes):
    """SciPy's reader divides by how many there are, which ended the process."""
    market(path, kind, "{} {}".format(*sizes))
    np.testing.assert_array_equal(read_vector(path).reshape(sizes), np.zeros(sizes))
    market(path, kind, "{} {}\n% none\n7".format(*sizes))
    with pytest.raises(InputError, match="announces 0 entries, and there are more"):
        read_vector(path)


def test_integers_beyond_two_to_the_53(path):
    numbers = [2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 10**30]
    body = "\n".join(f"{k + 1} {k + 1} {number}" for k, number in enumerate(numbers))
    market(path, "coordinate integer general", f"5 5 5\n{body}")
    np.testing.assert_array_equal(dense(path).diagonal(), [float(number) for number in numbers])
    market(path, "coordinate unsigned-integer general", "1 1 2\n1 1 9223372036854775807\n1 1 1")
    assert dense(path)[0, 0] == 2.0**63


def test_comments_blank_lines_ends_and_marks(path):
    long = "%" + "x" * 200_000 + "\n"
    body = f"{long}%\n\n{long}  % more\n2 2 2\n% between\n1 1 1\n\n \t\n2\t2   5 \n  %\n\n"
    text = f"%%MatrixMarket MATRIX Coordinate Real General\n{body}"
    for content in (text, text.replace("\n", "\r\n"), "\ufeff" + text, text.rstrip("% \n")):
        path.write_text(content, newline="")
        np.testing.assert_array_equal(dense(path), [[1, 0], [0, 5]])


def test_utf16_is_named(path):
    path.write_text("%%MatrixMarket matrix coordinate real general\n", encoding="utf-16")
    with pytest.raises(InputError, match="UTF-16"):
        read_source(path)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_by_another_name(path, pack):
    path.write_bytes(pack(b"%%MatrixMarket matrix coordinate real general\n1 1 0\n"))
    with pytest.raises(InputError, match="is compressed"):
        read_source(path)


@pytest.mark.parametrize("sizes", ["2 2", "2 2 1 1", "2.0 2 1", "2 2 x", "1_0 2 1", "-2 2 0"])
def test_sizes_are_whole_numbers(path, sizes):
    market(path, GENERAL, f"{sizes}\n1 1 1")
    with pytest.raises(InputError, match="3 sizes") as caught:
        read_source(path)
    assert caught.value.field == "line 2"


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        (".MTX", bytes),
        (".Mtx.Gz", gzip.compress),
        (".MTX.GZ", gzip.compress),
        (".mtx.bz2", bz2.compress),
        (".MTX.XZ", lzma.compress),
    ],
)
def test_compressed(tmp_path, suffix, pack):
    text = b"%%MatrixMarket matrix coordinate real general\n2 2 1\n1 2 1.5D0\n"
    path = tmp_path / f"m{suffix}"
    path.write_bytes(pack(text))
    np.testing.assert_array_equal(dense(path), [[0, 1.5], [0, 0]])
    np.testing.assert_array_equal(read_vector(path), [[0, 1.5], [0, 0]])
    path.write_bytes(pack(text)[:-9])
    with pytest.raises(InputError):
        read_source(path)


def test_an_odd_line_far_into_the_file_is_found(path, monkeypatch):
    """Blocks that end inside lines, spellings that change between them."""
    monkeypatch.setattr(matrix_market_lines, "BLOCK", 37)
    n = 60
    lines = [f"{k + 1} {k % 7 + 1} {k}.5" for k in range(n)]
    lines[40] = "41 6 1.5D0"
    lines[50] = "% nothing"
    market(path, GENERAL, f"{n} 7 {n - 1}\n" + "\n".join(lines))
    expected = np.zeros((n, 7))
    expected[np.arange(n), np.arange(n) % 7] = np.arange(n) + 0.5
    expected[40, 5], expected[50] = 1.5, 0
    np.testing.assert_array_equal(dense(path), expected)
    for line, text in ((55, "56 1 1e"), (0, "1 1 1e"), (n - 1, "60 60 1"), (3, "4 4 1e999")):
        spoilt = [*lines[:line], text, *lines[line + 1 :]]
        market(path, GENERAL, f"{n} 7 {n - 1}\n" + "\n".join(spoilt))
        with pytest.raises(InputError) as caught:
            read_source(path)
        assert caught.value.field == f"line {line + 3}"
        assert repr(text) in caught.value.problem


numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9).map(float)


def fortran(x):
    """As ``E24.16`` writes it."""
    mantissa, exponent = f"{x:.16e}".split("e")
    digits = mantissa.replace(".", "")
    sign = "-" if digits.startswith("-") else ""
    power = int(exponent) + 1 if x else 0
    letter = "E" if abs(power) < 100 else ""
    return f"{sign}0.{digits.lstrip('-')}{letter}{power:+0{3 if letter else 4}d}"


@settings(max_examples=60, deadline=None)
@given(st.data(), st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5), numbers), max_size=12))
def test_round_trips(tmp_path_factory, data, entries):
    spell = st.sampled_from(
        [
            repr,
            fortran,
            "{:.17g}".format,
            "{:+.17E}".format,
            lambda x: f"{x:.17e}".replace("e", "D"),
        ]
    )
    folder = tmp_path_factory.mktemp("trips")
    path = folder / "m.mtx"
    ends = data.draw(st.sampled_from(["\n", "\r\n"]))
    lines = [
        data.draw(st.sampled_from(["{} {} {}", "\t{}  {}\t{} "])).format(i, j, data.draw(spell)(v))
        for i, j, v in entries
    ]
    text = [f"%%MatrixMarket matrix {GENERAL}", "%", f"5 5 {len(entries)}", *lines]
    path.write_text(ends.join(text) + data.draw(st.sampled_from(["", ends])), newline="")
    expected = np.zeros((5, 5))
    with np.errstate(over="ignore"):
        for i, j, v in entries:
            expected[i - 1, j - 1] += v
    if not np.isfinite(expected).all():
        return
    np.testing.assert_array_equal(dense(path), expected)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["general", "symmetric", "skew-symmetric"]),
    st.sampled_from(["real", "integer", "pattern"]),
    st.integers(0, 2**32 - 1),
)
def test_what_scipy_wrote(tmp_path_factory, symmetry, field, seed):
    if (symmetry, field) == ("skew-symmetric", "pattern"):
        return
    rng = np.random.default_rng(seed)
    a = sp.random_array((6, 6), density=0.3, rng=rng).toarray()
    a = np.rint(9 * a) if field == "integer" else (a > 0) * 1.0 if field == "pattern" else a
    a = {"general": a, "symmetric": np.tril(a) + np.tril(a, -1).T}.get(
        symmetry, np.tril(a, -1) - np.tril(a, -1).T
    )
    path = tmp_path_factory.mktemp("scipy") / "m.mtx"
    scipy.io.mmwrite(path, sp.coo_array(a), field=field, symmetry=symmetry)
    np.testing.assert_array_equal(dense(path), scipy.io.mmread(path).toarray())
    np.testing.assert_array_equal(dense(path), a)
