"""Random numbers are given back as they were, whatever was drawn in between."""

import random

import numpy as np
import pytest
import torch

from sigprop.reading.random_states import own_generator, random_states_kept

DRAWS = {
    "nothing": lambda: None,
    "one normal number of numpy": lambda: np.random.randn(1),  # noqa: NPY002  (its global numbers)
    "two": lambda: np.random.randn(2),  # noqa: NPY002
    "a uniform one": lambda: np.random.random(),  # noqa: NPY002
    "a seed of numpy's": lambda: np.random.seed(3),  # noqa: NPY002
    "Python's": lambda: random.gauss(0, 1),
    "torch's": lambda: torch.randn(3),
}


def numbers() -> list[float]:
    """What each draws next."""
    drawn = [random.random(), *np.random.randn(3), *np.random.random(2)]  # noqa: NPY002
    return [*map(float, drawn), *torch.rand(2).tolist()]


@pytest.mark.parametrize("before", [0, 1, 2])  # an odd number leaves one for the next call
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_numbers_are_given_back(draw, before):
    def seeded() -> None:
        random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
        np.random.randn(before)  # noqa: NPY002

    with random_states_kept():
        seeded()
        expected = numbers()
        seeded()
        with random_states_kept():
            draw()
        assert numbers() == expected


def test_numbers_of_another_generator_of_numpy_are_given_back():
    own = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(4))
    try:
        with random_states_kept():
            first = np.random.random(2)  # noqa: NPY002
        assert np.random.random(2).tolist() == first.tolist()  # noqa: NPY002
    finally:
        np.random.set_bit_generator(own)


def test_an_own_generator_goes_by_its_seed_and_by_it_alone():
    first, again, other = (torch.randn(8, generator=own_generator(s)) for s in (3, 3, 4))
    assert torch.equal(first, again) and not (first == other).any()
    assert not (first == torch.randn(8, generator=torch.Generator().manual_seed(3))).any()
