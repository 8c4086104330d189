"""The GPU's sparse products compiled for cards that are not there: they fit, and nothing spills."""

from __future__ import annotations

import importlib.util
import itertools

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from hpc_sla.kernels import slices, triton_products
from tests.kernels.test_ahead_of_time import MOST_REGISTERS, MOST_SHARED, resources

VECTORS = ("b", "inverse", "before", "after", "weights", "dot", "square")
ENDS = {
    "product": (),
    "with dots": ("weights", "dot", "square", "sums"),
    "rows with dots": ("rows", "weights", "dot", "square", "sums"),
    "affine": ("b",),
    "relax": ("b", "inverse", "before", "after"),
    "the rest of relax": ("rows", "inverse", "after"),
}
"""What goes with a product: what is not named is None."""

FORMS = {
    **{
        f"csr {lanes} of {bits}": ("csr", lanes, {"indptr": f"*i{bits}", "indices": "*i32"})
        for lanes, bits in ((1, 32), (4, 64), (32, 32))
    },
    "near": ("sliced", "", {"near": "*i16", "bases": "*i32"}),
    "near, coded": ("sliced", "*u8", {"near": "*i16", "bases": "*i32"}),
    "far, sorted": ("sliced", "", {"far": "*i32", "order": "*i16"}),
    "both, coded, sorted": (
        "sliced",
        "*i16",
        {"near": "*i16", "bases": "*i32", "far": "*i32", "places": "*i32", "order": "*i16"},
    ),
}


def case(form: str, end: str, dtype: str):
    """A kernel, the types of its arguments, and the values of what is fixed."""
    kind, how, types = FORMS[form]
    given = dict.fromkeys(("x", "out", *(n for n in ENDS[end] if n in VECTORS)), f"*{dtype}")
    given |= {n: t for n, t in (("rows", "*i32"), ("sums", "*fp64")) if n in ENDS[end]}
    given |= types
    fixed: dict[str, object] = {"PROGRAMS": triton_products.PROGRAMS}
    if kind == "csr":
        kernel = triton_products._csr_kernel
        given["values"] = f"*{dtype}"
        fixed |= {"LANES": how, "ROWS": triton_products.TILE // how}
    else:
        kernel = triton_products._sliced_kernel
        given |= {"starts": "*i32", "codes": how or f"*{dtype}"}
        if how:
            given["dictionary"] = f"*{dtype}"
        fixed |= {"BLOCK": triton_products.BLOCK, "HEIGHT": slices.HEIGHT}
        fixed |= {"WINDOW": slices.WINDOW, "PAD": slices.PAD}
    named = {f"{name}_ptr": kind for name, kind in given.items()}
    named |= {"scale_bits": "i64", "beta_bits": "i64", "n": "i64"}
    return kernel, named, fixed


CASES = [
    # All that goes with a product in both precisions on one card, and the largest on all.
    *((form, end, "fp64", 90) for form, end in itertools.product(FORMS, ENDS)),
    *((form, end, "fp32", 90) for form in FORMS for end in ("with dots", "relax")),
    *((f, e, "fp64", c) for f in FORMS for e in ("rows with dots", "relax") for c in (80, 100)),
]


@pytest.mark.parametrize(("form", "end", "dtype", "card"), CASES)
def test_products_fit(form, end, dtype, card, tmp_path):
    found, text = resources(*case(form, end, dtype), card, tmp_path, triton_products.WARPS)
    assert found["STACK"] == 0 and found["REG"] <= MOST_REGISTERS
    assert found["SHARED"] <= MOST_SHARED
    if FORMS[form][0] == "sliced":
        # A row is a lane's own from first to last: nothing is handed from lane to lane.
        assert "convert_layout" not in text


def test_four_entries_are_read_at_once(tmp_path):
    """Loads of x that wait for one another would leave most of the memory's speed unused."""
    kernel, types, fixed = case("near, coded", "affine", "fp64")
    _, sass = resources(kernel, types, fixed, 90, tmp_path, triton_products.WARPS, sass=True)
    loop = sass[sass.index("LDG.E.U8") :]
    loop = loop[: loop.index("BRA")]
    first_sum = loop.index("DFMA")
    assert loop.count("LDG.E.64") == 8  # of the dictionary and of x
    assert loop[:first_sum].count("LDG.E.64") == 8
