"""Statistical checks: they accept the truth, reject errors, and notice a blind mutant."""

import numpy as np
import pytest

from tests import stat


@pytest.fixture
def own_ledger(monkeypatch):
    monkeypatch.setattr(stat, "LEDGER", {})


def test_mean_accepts_the_truth_and_needs_a_visible_mutant(own_ledger):
    truth = lambda size, rng: rng.normal(1.0, 2.0, size)  # noqa: E731
    shifted = lambda size, rng: rng.normal(1.1, 2.0, size)  # noqa: E731
    stat.assert_mean("m", truth, expected=1.0, std=2.0, detect=0.1, mutant=shifted)
    with pytest.raises(stat.Rejected):
        stat.assert_mean("m", shifted, expected=1.0, std=2.0, detect=0.1, mutant=truth)
    with pytest.raises(AssertionError, match="mutant was accepted"):
        stat.assert_mean("m", truth, expected=1.0, std=2.0, detect=0.1, mutant=truth)


def test_uniform_and_rate_reject_mutants(own_ledger):
    uniform = lambda size, rng: rng.random(size)  # noqa: E731
    stat.assert_uniform("u", uniform, detect=0.05, mutant=lambda size, rng: rng.random(size) ** 1.2)
    stat.assert_rate(
        "r",
        lambda size, rng: rng.random(size) < 0.3,
        expected=0.3,
        detect=0.02,
        mutant=lambda size, rng: rng.random(size) < 0.32,
    )
    with pytest.raises(stat.Rejected):
        stat.assert_uniform(
            "u2", lambda size, rng: rng.beta(2, 2, size), detect=0.05, mutant=uniform
        )


def test_a_check_draws_once_from_a_seed_of_its_name(own_ledger):
    sizes = []

    def draw(size: int, rng: np.random.Generator) -> np.ndarray:
        sizes.append(size)
        return rng.normal(size=size)

    stat.assert_mean(
        "n", draw, expected=0, std=1, detect=0.1, mutant=lambda n, rng: rng.normal(0.2, 1, n)
    )
    assert len(sizes) == 1
    assert stat.LEDGER["n"].size == sizes[0]
    assert stat.rng_for("n").random() == stat.rng_for("n").random()
