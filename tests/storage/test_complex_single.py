"""Which numbers are taken for complex ones of single precision, and which are not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from hpc_sla.storage.complex_single import looks_complex

RNG = np.random.default_rng(0)
LAPLACE = np.array([-1.0] * 40 + [4.0] * 10)
NORMAL = RNG.standard_normal(500)

REAL = {
    "normal": NORMAL,
    "whole": RNG.integers(-9, 9, 500),
    "20 bits": RNG.integers(0, 2**20, 500),
    "40 bits": RNG.integers(0, 2**40, 500),
    "laplace": LAPLACE,
    "laplace / h^2": LAPLACE * 127.0**2,
    "laplace h": LAPLACE / 128,
    "tenths": RNG.integers(1, 500, 500) / 10,
    "hundredths": RNG.integers(1, 5000, 900) / 100,
    "thirds": np.arange(1, 99) / 3,
    "float32": NORMAL.astype(np.float32),
    "float16": NORMAL.astype(np.float16),
    "fixed point": RNG.integers(0, 2**20, 900) / 4096,
    "powers of 2": 2.0 ** np.arange(-50, 50),
    "ones": np.ones(9),
    "1/128": np.full(9, 1 / 128),
    "none": [],
    "zeros": np.zeros(5),
    "any magnitude": 10.0 ** RNG.uniform(-200, 200, 500),
    "finite elements": np.array([1 / 6, 1 / 3, -1 / 12, 2 / 3] * 9),
    "points": np.linspace(0, 1, 100),
    "sine": np.sin(np.linspace(0, 1, 300)),
    "binary fractions": RNG.integers(1, 2**12, 900) / 2.0 ** RNG.integers(0, 12, 900),
    "whole as floats too": [2, 512, 2, 32.0],
    "not finite": [np.nan, np.inf, 1.0],
}

COMPLEX = {
    "normal": NORMAL + 1j * NORMAL[::-1],
    "real": NORMAL + 0j,
    "real, float32": NORMAL.astype(np.float32) + 0j,
    "laplace": LAPLACE + 0j,
    "noise": NORMAL * (1 + 1e-9j * NORMAL[::-1]),
    "sine": np.sin(np.linspace(0, 1, 300)) + 0j,
    "whole": RNG.integers(-9, 9, 99) + 0j,
    "whole, both": RNG.integers(-9, 9, 99) + 1j * RNG.integers(-9, 9, 99),
    "some imaginary": np.where(np.arange(500) % 9, 0, 1j * NORMAL) + NORMAL[::-1],
    "small": 1e-9 * NORMAL * (1 + 1j),
    "tenths": RNG.integers(1, 500, 500) / 10 + 0j,
}


@pytest.mark.parametrize("kind", REAL)
def test_real_numbers_are_read(kind):
    assert not looks_complex(np.asarray(REAL[kind]).astype(">f8"))


@pytest.mark.parametrize("kind", COMPLEX)
def test_complex_ones_are_noticed(kind):
    assert looks_complex(np.asarray(COMPLEX[kind]).astype(">c8").view(">f8"))


def test_few_numbers_are_never_taken_for_others():
    for seed in range(300):
        rng = np.random.default_rng(seed)
        ratios = rng.integers(1, 60, 60) / rng.integers(1, 60, 60)
        for values in (ratios, rng.standard_normal(25)):
            assert not looks_complex(values.astype(">f8"))


def test_halves_that_are_no_numbers_are_looked_at_without_a_warning():
    """As those of stiffness matrices are now and then: signalling NaNs, read as floats."""
    words = np.array([[0x3FF00000, 0x7FA00001], [0x40100000, 0]], ">u4")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not looks_complex(words.view(">f8").ravel())
