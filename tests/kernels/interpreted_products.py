"""The GPU's sparse products beside SciPy's: with TRITON_INTERPRET=1, in a process of its own.

TRITON_INTERPRET=1 python -m tests.kernels.interpreted_products
"""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sp
import torch

from hpc_sla.kernels import slices, triton_products
from hpc_sla.kernels.device_products import DeviceRows
from hpc_sla.kernels.slices import Slices

NAN, INF = float("nan"), float("inf")


def grid(n: int) -> sp.csr_matrix:
    line = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n))
    return (sp.kron(line, sp.eye(n)) + sp.kron(sp.eye(n), line)).tocsr()


def matrices():
    """Name, matrix, and what its slices are to have."""
    some = sp.random(130, 130, 0.02, random_state=1, format="lil")
    some[13, :] = 1.5  # a dense row
    some[33:98, :] = 0  # rows without entries, whole slices of them
    yield "grid", grid(7)
    yield "dense row", some.tocsr()
    yield "long", sp.random(5, 70, 0.7, random_state=3, format="csr")
    yield "tall", sp.random(1025, 3, 0.2, random_state=4, format="csr")
    yield "one", sp.csr_matrix(np.array([[-0.0]]) + 2)
    yield "no entries", sp.csr_matrix((70, 9))
    yield "no rows", sp.csr_matrix((0, 4))
    yield "no columns", sp.csr_matrix((4, 0))


def forms(matrix: sp.csr_matrix, values: torch.Tensor, wide: bool):
    """The matrix in each form that it has."""
    kind = np.int64 if wide else np.int32
    indptr, indices = (torch.from_numpy(a) for a in (matrix.indptr.astype(kind), matrix.indices))
    for lanes in (2, 32) if matrix.shape[0] < 1000 else (2,):
        yield f"lanes {lanes}", DeviceRows("csr_rows", (indptr, indices, values, lanes), {})
    s = Slices.of(indptr, indices)
    if s is None:
        return
    parts = (s.starts, s.places, s.near, s.bases, s.far, s.order)
    laid = s.spread(indptr, values), None
    assert s.same(indptr, values, *laid)
    yield "slices", DeviceRows("sliced_rows", (*parts, *laid), {})
    coded = s.coded(indptr, values)
    if coded is not None:
        assert s.same(indptr, values, *coded)
        yield "codes", DeviceRows("sliced_rows", (*parts, *coded), {})


def check(matrix: sp.csr_matrix, dtype: torch.dtype, wide: bool, seen: set[str]) -> None:
    matrix.sort_indices()
    matrix.data = np.round(matrix.data, 2 if matrix.shape[0] > 1000 else 9)
    n, m = matrix.shape
    torch.manual_seed(0)
    values = torch.from_numpy(matrix.data).to(dtype)
    x, w, b, d, p = (torch.randn(k, dtype=dtype) for k in (m, n, n, n, n))
    product = torch.from_numpy(matrix @ x.double().numpy()).to(dtype)
    rows = torch.randperm(3 * n, dtype=torch.int32)[:n].sort().values
    at = rows.long()
    W, D, Y, Q = (torch.randn(3 * n, dtype=dtype) for _ in range(4))

    def same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
        torch.testing.assert_close(ours, theirs)

    for name, form in forms(matrix, values, wide):
        seen.add(name)
        # NaN before: what is read or left unwritten would show.
        out = torch.full((n,), NAN, dtype=dtype)
        dot, square = (torch.tensor(NAN, dtype=dtype) for _ in range(2))
        form(x, out, weights=w, dot=dot, square=square)
        same(out, product)
        same(dot, w @ product)
        same(square, product @ product)
        again = dot.clone()
        form(x, out, weights=w, dot=again)
        assert torch.equal(again, dot)

        out, dot, square = Y.clone(), torch.tensor(3.0, dtype=dtype), torch.tensor(5.0, dtype=dtype)
        form(x, out, rows=rows, weights=W, dot=dot, square=square, scale=-0.7)
        expected = Y.clone()
        expected[at] += -0.7 * product
        same(out, expected)
        same(dot, 3 - 0.7 * (W[at] @ product))
        same(square, 5 + expected @ expected - Y @ Y)

        out = torch.full((n,), NAN, dtype=dtype)
        form(x, out, b=b, scale=-1.0)
        same(out, b - product)
        out = b.clone()
        form(x, out, b=out, scale=1 / 3)
        same(out, b + product / 3)

        if n == m:
            q = 0.4 * d * (b - product)
            out = torch.full((n,), NAN, dtype=dtype)
            form(x, out, b=b, inverse=d, scale=0.4, beta=7.0)
            same(out, x + q)
            kept = p.clone()
            form(x, out, b=b, inverse=d, before=kept, after=kept, scale=0.4, beta=-1 / 7)
            same(kept, q - p / 7)
            same(out, x + q - p / 7)
            kept = torch.full((n,), NAN, dtype=dtype)
            form(x, out, b=b, inverse=d, before=x, after=kept, scale=0.4, beta=1.0)
            same(kept, q + x)
            same(out, q + 2 * x)
        out, kept = Y.clone(), Q.clone()
        form(x, out, rows=rows, inverse=D, after=kept, scale=-0.4)
        change = -0.4 * D[at] * product
        expected, other = Y.clone(), Q.clone()
        expected[at] += change
        other[at] += change
        same(out, expected)
        same(kept, other)
        form(x, out, rows=rows, inverse=D, scale=-0.4)
        expected[at] += change
        same(out, expected)


def padding() -> None:
    """An infinite x is met by the rows that have an entry there alone; so is an infinite value."""
    matrix = sp.random(150, 150, 0.03, random_state=5) + sp.eye(150)
    matrix = matrix.tocsr()
    matrix.sort_indices()
    matrix.data[:] = np.round(matrix.data)
    for value, at in ((2.0, slice(0)), (NAN, slice(3, 4)), (-INF, slice(3, 4))):
        matrix.data[at] = value
        for bad in (INF, NAN, 1.0):
            x = np.ones(150)
            x[[0, 31, 149]] = bad
            with np.errstate(invalid="ignore"):
                expected = torch.from_numpy(matrix @ x)
            for _, form in forms(matrix, torch.from_numpy(matrix.data), False):
                out = torch.zeros(150, dtype=torch.float64)
                form(torch.from_numpy(x), out)
                torch.testing.assert_close(out, expected, equal_nan=True)
                assert out.isfinite().sum() > 100


def numbers() -> None:
    """All 53 bits of a factor arrive; so do those of small, of huge and of no numbers."""
    form = next(forms(sp.eye(3, format="csr"), torch.ones(3, dtype=torch.float64), False))[1]
    for scale in (1 / 3, math.pi * 1e300, 5e-324, 0.0, -0.0, 1.0, INF):
        out = torch.empty(3, dtype=torch.float64)
        form(torch.ones(3, dtype=torch.float64), out, scale=scale)
        assert out.tolist() == [scale] * 3


def main() -> None:
    seen: set[str] = set()
    for _, matrix in matrices():
        check(matrix, torch.float64, False, seen)
    uneven = (sp.random(90, 90, 0.03, random_state=6) + sp.eye(90)).tocsr()
    for dtype, wide in ((torch.float32, False), (torch.float64, True)):
        check(uneven, dtype, wide, seen)
    assert seen == {"lanes 2", "lanes 32", "slices", "codes"}

    # Fewer programs than blocks; slices made in pieces; columns out of reach, in some of them.
    places = []
    uneven = (grid(13) + sp.random(169, 169, 0.002, random_state=7)).tocsr()
    for programs, columns, reach in ((1, 5, 70), (4096, 1 << 18, 1)):
        triton_products.PROGRAMS, slices._COLUMNS, slices._REACH = programs, columns, reach
        check(uneven, torch.float64, False, seen)
        s = Slices.of(*(torch.from_numpy(a) for a in (uneven.indptr, uneven.indices)))
        assert s is not None
        places.append(s.places is not None and s.near is not None and s.far is not None)
    assert any(places)
    slices._REACH = 65534
    padding()
    numbers()
    print("same")


if __name__ == "__main__":
    main()
