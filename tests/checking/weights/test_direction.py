"""The two scale-free tests: uniform p-values, each beside a mutant, and closed forms."""

import numpy as np
import pytest
import torch
from scipy import stats

from sigprop.checking.weights.chi_squares import ratio_score
from sigprop.checking.weights.direction import direction
from sigprop.checking.weights.off_span import off_span
from sigprop.checking.weights.quadratic import Quadratic
from sigprop.checking.weights.shapes import SHAPES
from sigprop.init.distributions import haar
from tests.stat import assert_uniform

DETECT = 0.3
UNEQUAL = torch.logspace(0, -1, 12, dtype=torch.float64)
UNIFORM = SHAPES["uniform"].cumulants


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


def uniform(*shape):
    return (2 * torch.rand(shape, dtype=torch.float64) - 1) * 3**0.5


def rotated(*shape):
    return 1.7 * haar(*shape[1:], None, dtype=torch.float64)[None]


def p_of(score):
    return stats.norm.cdf(score)


def draws(once):
    """A sampler of i.i.d. numbers from a function that draws one."""

    def draw(size, rng):
        torch.manual_seed(int(rng.integers(2**31)))
        return np.array([once() for _ in range(size)])

    return draw


def forward(weights, cumulants=(0.0, 0.0), *, scales=UNEQUAL, know=0.0, orthogonal=False):
    """Scores of layers drawn anew; ``know``: how much of the mean input is in each unit."""

    def once():
        rows = (normal(20, 1, len(scales)) + 0.3) * scales
        mean = rows.mean(0)
        weight = weights(1, 4, len(scales)) + know * mean[:, None] / mean.norm()
        return p_of(direction(rows, weight, cumulants, orthogonal).score)

    return draws(once)


def test_normal_weights():
    assert_uniform(
        "direction, normal", forward(normal), detect=DETECT, mutant=forward(normal, know=2.0)
    )


def test_uniform_weights():
    assert_uniform(
        "direction, uniform", forward(uniform, UNIFORM), detect=DETECT,
        mutant=forward(uniform, UNIFORM, know=2.0),
    )  # fmt: skip


def test_inputs_along_few_columns_need_the_cumulants_of_the_law():
    """There the standard deviation is .64 of that of normal weights, and the skew another."""
    along = torch.tensor([1.0, 0.4, *[0.05] * 10], dtype=torch.float64)
    assert_uniform(
        "direction, cumulants", forward(uniform, UNIFORM, scales=along), detect=0.16,
        mutant=forward(uniform, scales=along),
    )  # fmt: skip


def test_orthogonal_rows():
    assert_uniform(
        "direction, orthogonal rows", forward(rotated, orthogonal=True), detect=DETECT,
        mutant=forward(rotated, orthogonal=True, know=2.0),
    )  # fmt: skip


def test_the_rows_left_out_of_a_rotation_answer_the_opposite():
    whole, rows = rotated(1, 12, 12), normal(20, 1, 12) * UNEQUAL
    few, many = whole[:, :3], whole[:, 3:]
    assert direction(rows, many, orthogonal=True).score == pytest.approx(
        -direction(rows, few, orthogonal=True).score
    )


def test_as_many_orthogonal_rows_as_columns_leave_nothing_to_test():
    answer = direction(normal(20, 1, 12), rotated(1, 12, 12), orthogonal=True)
    assert answer.score is None and "follows exactly" in answer.note


def test_rows_of_one_norm_vary_less():
    """n rows on the sphere of k dimensions against one row on that of n k dimensions."""
    rows, weight = normal(20, 1, 3) * UNEQUAL[:3], normal(1, 30, 3)
    weight /= weight.norm(dim=-1, keepdim=True)
    uneven = weight * (1 + 2e-3 * torch.linspace(-1, 1, 30, dtype=torch.float64)[:, None])
    seen, drawn = direction(rows, weight).score, direction(rows, uneven).score
    assert seen / drawn == pytest.approx((30 * 5 / 92) ** 0.5, rel=0.02)
    along = torch.tensor([1.0, 0, 0], dtype=torch.float64)[None, None]
    squares = []
    for _ in range(300):
        weight = normal(1, 30, 3)
        squares.append(direction(along, weight / weight.norm(dim=-1, keepdim=True)).score ** 2)
    assert 0.6 < np.mean(squares) < 1.45  # without it .61 is expected


def test_groups_are_one_test():
    """The naive twin: all groups in one matrix, its blocks on the diagonal."""
    rows = normal(30, 4, 5) * torch.logspace(0, -1, 4, dtype=torch.float64)[:, None]
    weight = normal(4, 2, 5)
    gram = torch.block_diag(*(rows[:, g].T @ rows[:, g] / 30 for g in range(4)))
    spread = torch.block_diag(*weight)
    seen = float(torch.trace(spread @ gram @ spread.T)) / float(weight.square().sum())
    wanted = ratio_score(torch.linalg.eigvalsh(gram), np.full(20, 2), seen)
    assert direction(rows, weight).score == pytest.approx(wanted)


@pytest.mark.parametrize("places", [3, 40])
def test_the_form_behind_the_ratio(places):
    """The naive twin: A as a matrix; more rows than columns, and fewer."""
    rows, weight = normal(places, 1, 12) * UNEQUAL, uniform(1, 4, 12)
    p = rows[:, 0] / rows.square().mean().sqrt()
    gram = p.T @ p / places
    a = gram - torch.eye(12)
    square, diagonal = a @ a, torch.diagonal(a)
    form = Quadratic(
        4 * float(torch.trace(square)), 4 * float(torch.trace(square @ a)),
        4 * float((diagonal**2).sum()), 4 * float((diagonal**3).sum()),
        4 * float((diagonal * torch.diagonal(square)).sum()),
    )  # fmt: skip
    wanted = form.adjusted(direction(rows, weight).score, UNIFORM)
    assert direction(rows, weight, UNIFORM).score == pytest.approx(wanted, rel=1e-6)


def test_cumulants_of_a_quadratic_form_against_draws():
    rng = np.random.default_rng(0)
    a = np.array([[2.0, 0.3, 0], [0.3, -1.5, 0.4], [0, 0.4, -0.5]])
    square, diagonal = a @ a, np.diag(a)
    form = Quadratic(
        np.trace(square), np.trace(square @ a), (diagonal**2).sum(), (diagonal**3).sum(),
        (diagonal * np.diag(square)).sum(),
    )  # fmt: skip
    w = rng.uniform(-(3**0.5), 3**0.5, (1_000_000, 3))
    q = np.einsum("ni,ij,nj->n", w, a, w)
    assert q.var() == pytest.approx(2 * form.square * form.variance_share(-1.2), rel=0.01)
    fourth, sixth = UNIFORM
    third = 8 * form.cube + 12 * fourth * form.mixed + sixth * form.diagonal_cube
    assert ((q - q.mean()) ** 3).mean() == pytest.approx(third, rel=0.03)


def test_centred_rows_do_not_see_the_mean_of_their_input():
    rows, weight = normal(20, 1, 40) + 5, normal(1, 8, 40)
    centred = weight - weight.mean(-1, keepdim=True)
    wanted = direction(rows - rows.mean(-1, keepdim=True), centred)
    assert direction(rows, centred).score == pytest.approx(wanted.score)
    assert abs(wanted.score) < 5


def test_rows_of_mean_0_have_one_column_less():
    def centred(*shape):
        weight = normal(*shape)
        return weight - weight.mean(-1, keepdim=True)

    scales = torch.linspace(1, 0.5, 6, dtype=torch.float64)
    assert_uniform(
        "direction, centred rows", forward(centred, scales=scales), detect=DETECT,
        mutant=forward(centred, scales=scales, know=2.0),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "weight", "why"),
    [
        (torch.zeros(5, 1, 4), torch.randn(1, 3, 4), "zero"),
        (torch.randn(5, 1, 1), torch.randn(1, 3, 1), "same size in all directions"),
        (torch.eye(4)[:, None], torch.randn(1, 3, 4), "same size in all directions"),
    ],
)
def test_what_cannot_be_asked_says_why(rows, weight, why):
    answer = direction(rows, weight)
    assert answer.score is None and why in answer.note


def test_it_is_blind_to_scale_and_exact_where_one_row_is_given():
    rows, weight = normal(1, 1, 6), normal(1, 4, 6)
    answer = direction(rows, weight)
    along = (weight[0] @ rows[0, 0] / rows.norm()).square().sum() / weight.square().sum()
    exact = stats.beta.cdf(float(along), 4 / 2, 4 * 5 / 2)
    assert p_of(answer.score) == pytest.approx(exact, rel=0.02)
    assert direction(1e-20 * rows, 1e15 * weight).score == pytest.approx(answer.score)


# Backward


def backward(
    weights, cumulants=(0.0, 0.0), *, activation=torch.tanh, know=0.0, forget=False, bias=0.0
):
    """A layer, a random layer behind it, and the gradient of a random sum."""

    def once():
        rows, weight = normal(6, 1, 30) * UNEQUAL.repeat(3)[:30], weights(1, 12, 30)
        h = ((rows[:, 0] @ weight[0].T + bias) / 4).requires_grad_()
        (activation(h) @ normal(12, 5) * normal(6, 5)).sum().backward()
        gradient = h.grad[:, None]
        if know:  # the mutant: a step of gradient descent on another batch
            weight = weight + know * gradient[0, 0][None, :, None] * normal(1, 1, 30)
        given = rows[:1] if forget else rows
        return p_of(off_span(given, weight, gradient, cumulants).score)

    return draws(once)


@pytest.mark.parametrize("name", ["normal", "uniform"])
def test_off_the_span_the_weights_do_not_know_their_gradient(name):
    weights, cumulants = {"normal": (normal, (0.0, 0.0)), "uniform": (uniform, UNIFORM)}[name]
    assert_uniform(
        f"off span, {name}", backward(weights, cumulants, bias=1.0), detect=DETECT,
        mutant=backward(weights, cumulants, know=2.0),
    )  # fmt: skip


def test_all_rows_are_needed():
    """The mutant leaves out rows, and takes what the activation did for what the weights know."""

    def square(h):
        return (2 * h).clamp(min=0) ** 3

    assert_uniform(
        "off span, all rows", backward(normal, activation=square), detect=0.22,
        mutant=backward(normal, activation=square, forget=True),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "gradient", "why"),
    [
        (torch.randn(3, 1, 8), torch.zeros(3, 1, 4), "no gradient"),
        (torch.randn(8, 1, 8), torch.randn(8, 1, 4), "span all columns"),
        (torch.randn(3, 1, 8), torch.randn(3, 1, 1), "one unit"),
    ],
)
def test_backward_what_cannot_be_asked_says_why(rows, gradient, why):
    weight = torch.randn(1, gradient.shape[-1], 8)
    answer = off_span(rows, weight, gradient)
    assert answer.score is None and why in answer.note


def test_repeated_rows_span_no_more_than_one():
    rows, gradient, weight = normal(1, 1, 8), normal(5, 1, 4), normal(1, 4, 8)
    one = off_span(rows, weight, gradient).score
    assert off_span(rows.expand(5, 1, 8), weight, gradient).score == pytest.approx(one)


def test_only_columns_off_the_span_count():
    """Columns that the inputs span whole change nothing, whatever the law of the weights."""
    weight, gradient = uniform(1, 8, 12), normal(6, 1, 8)
    many = off_span(torch.eye(12, dtype=torch.float64)[:6, None], weight, gradient, UNIFORM)
    one = torch.eye(7, dtype=torch.float64)[:1, None].expand(6, 1, 7)
    assert off_span(one, weight[..., 5:], gradient, UNIFORM).score == pytest.approx(many.score)


def test_few_weights_that_are_not_normal_are_not_tested():
    uniform, x = (-1.2, 6.9), torch.randn(1, 1, 4)
    for few, units in ((True, 2), (True, 3), (False, 8)):
        weight = torch.rand(1, units, 4) - 0.5
        assert (direction(x, weight, uniform).score is None) == few
        assert direction(x, weight).score is not None
        back = off_span(x, weight, torch.randn(1, 1, units), uniform).score
        assert (back is None) == (units * 3 < 32)
