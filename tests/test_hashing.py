"""Numbers from their indices, against SplitMix64 as published."""

import numpy as np
import pytest

from hpc_sla.hashing import noise, uniform


def split_mix(state, draws):
    """SplitMix64 as published, in Python's integers."""
    found = []
    for _ in range(draws):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        found.append(z ^ (z >> 31))
    return found


@pytest.mark.parametrize("seed", [0, 1, 12345, -1])
def test_numbers_are_split_mix_s_whatever_part_is_drawn(seed):
    start = split_mix(seed % 2**64 * 0x9E3779B97F4A7C15 % 2**64, 1)[0]
    expected = np.array([(bits >> 11) / 2**53 for bits in split_mix(start, 40 * 3)])
    drawn = uniform(np.arange(40), 3, seed)
    np.testing.assert_array_equal(drawn, expected.reshape(40, 3))
    np.testing.assert_array_equal(uniform(np.array([31, 7]), 3, seed), drawn[[31, 7]])


def test_numbers_are_uniform_and_seeds_independent():
    drawn = uniform(np.arange(20000), 2, 5)
    counts = np.histogram2d(*drawn.T, bins=10, range=[[0, 1], [0, 1]])[0]
    assert abs(counts - 200).max() < 70
    other = uniform(np.arange(20000), 2, 6)
    assert abs(np.corrcoef(drawn.ravel(), other.ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("seed", [0, 3, 20240229])
def test_noise_is_the_generator_s_draw_of_that_index(seed):
    draws = split_mix((seed << 40) % 2**64 * 0x9E3779B97F4A7C15 % 2**64, 39)
    expected = np.array([(bits >> 11) / 2**52 - 1 for bits in draws])
    np.testing.assert_array_equal(noise(np.arange(1, 40), seed), expected)
    np.testing.assert_array_equal(noise(np.array([31, 7]), seed), expected[[30, 6]])


def test_noise_is_uniform_between_minus_one_and_one():
    drawn = noise(np.arange(1000), 1)
    assert np.all((drawn >= -1) & (drawn < 1))
    assert abs(drawn.mean()) < 0.1
    assert abs(drawn.std() - 3**-0.5) < 0.05
    assert len(np.unique(drawn)) == 1000
