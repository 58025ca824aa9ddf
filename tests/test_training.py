"""What the analyses of training rest on: nets side by side, paired claims, the dead units."""

import copy
import dataclasses
import struct

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from analyses import _run, dead_units, digits_accuracy
from analyses._paired import compare, holm
from analyses._train import Data, Stack, accuracy, cross_entropy, drawn_from, load_data, train
from sigprop import DeepMLP
from sigprop.nn import PhasedReLU, Swish
from tests import stat


def small_net(seed):
    with drawn_from(seed):
        return nn.Sequential(
            nn.Unflatten(-1, (1, 8, 8)), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 12), nn.BatchNorm1d(12), PhasedReLU(),
            nn.Linear(12, 11), Swish(), nn.RReLU(0.2, 0.2), nn.Linear(11, 10),
        )  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return load_data(0, 1000, per_pixel=False)


def test_nets_side_by_side_learn_as_each_does_alone(data):
    """Parameters, running statistics, losses and accuracies, against torch's own SGD."""
    rates, steps = [0.01, 0.05, 0.2], 12
    picks = torch.randint(1000, (steps, 3, 32), generator=torch.Generator().manual_seed(1))
    alone = [small_net(seed) for seed in range(3)]
    stack = Stack([copy.deepcopy(net) for net in alone])
    losses = train(
        stack,
        lambda step: (data.x[picks[step]], data.y[picks[step]]),
        steps,
        torch.tensor(rates),
        momentum=0.5,
    )
    shares = accuracy(stack, data.x_asked.expand(3, -1, -1), data.y_asked.expand(3, -1))
    for i, net in enumerate(alone):
        optimizer = torch.optim.SGD(net.parameters(), lr=rates[i], momentum=0.5)
        for step in range(steps):
            optimizer.zero_grad()
            pick = picks[step, i]
            loss = nn.functional.cross_entropy(net(data.x[pick]), data.y[pick])
            loss.backward()
            optimizer.step()
            torch.testing.assert_close(losses[step, i], loss.detach(), rtol=1e-4, atol=1e-5)
        for name, value in net.named_parameters():
            torch.testing.assert_close(stack.weights[name][i], value, rtol=1e-3, atol=1e-5)
        for name, value in net.named_buffers():
            torch.testing.assert_close(stack.buffers[name][i], value, rtol=1e-3, atol=1e-5)
        right = net.eval()(data.x_asked).argmax(dim=1) == data.y_asked
        assert shares[i] == pytest.approx(right.double().mean().item(), abs=0.003)
    assert stack.finite().all()


def test_adam_is_torchs_own(data):
    nets, rates = [DeepMLP(64, 20, 3, "gelu", out_features=10) for _ in range(2)], [1e-3, 1e-2]
    stack = Stack([copy.deepcopy(net) for net in nets])
    x, y = data.x[:64], data.y[:64]
    losses = train(
        stack,
        lambda _: (x.expand(2, -1, -1), y.expand(2, -1)),
        20,
        torch.tensor(rates),
        adam=True,
    )
    for i, net in enumerate(nets):
        optimizer = torch.optim.Adam(net.parameters(), lr=rates[i])
        for step in range(20):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            torch.testing.assert_close(losses[step, i], loss.detach(), rtol=1e-3, atol=1e-4)
    assert losses[-1, 1] < losses[-1, 0] < losses[0, 0]


def test_a_net_that_diverges_leaves_the_others_alone(data):
    nets = [DeepMLP(64, 20, 3, "relu", out_features=10) for _ in range(2)]
    stack, lone = Stack(nets), Stack(nets[1:])
    x, y = data.x[:64], data.y[:64]
    train(stack, lambda _: (x.expand(2, -1, -1), y.expand(2, -1)), 30, torch.tensor([1e9, 0.1]))
    train(lone, lambda _: (x.expand(1, -1, -1), y.expand(1, -1)), 30, 0.1)
    assert stack.finite().tolist() == [False, True]
    torch.testing.assert_close(
        stack.weights["layers.0.weight"][1], lone.weights["layers.0.weight"][0]
    )


def test_dropout_is_drawn_for_each_net_and_the_generator_is_put_back():
    net = nn.Sequential(nn.Dropout(0.5), nn.RReLU())
    stack = Stack([net, copy.deepcopy(net)])
    state = torch.random.get_rng_state()
    with drawn_from(3):
        first = stack(-torch.ones(2, 5, 400))
    with drawn_from(3):
        again = stack(-torch.ones(2, 5, 400))
    assert torch.equal(first, again) and not torch.equal(first[0], first[1])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert 0.4 < (first == 0).double().mean() < 0.6
    slopes = -first[first != 0] / 2
    assert slopes.min() >= 1 / 8 and slopes.max() <= 1 / 3 and slopes.std() > 0.05


def test_cross_entropy_is_torchs_own():
    answers, y = torch.randn(3, 7, 10), torch.randint(10, (3, 7))
    expected = [nn.functional.cross_entropy(a, b) for a, b in zip(answers, y, strict=True)]
    torch.testing.assert_close(cross_entropy(answers, y), torch.stack(expected))


def test_data_is_split_and_scaled_by_what_is_learnt_from(data):
    assert data.x.shape == (1000, 64) and len(data.x_asked) == len(data.y_asked) == 797
    assert abs(data.x.mean()) < 1e-6 and abs(data.x.square().mean() - 1) < 1e-5
    assert abs(data.x_asked.mean()) > 1e-5
    per_pixel = load_data(1, 1300)
    assert per_pixel.x.mean(dim=0).abs().max() < 1e-5
    assert not torch.equal(load_data(1, 1000, per_pixel=False).y, data.y)


@pytest.fixture
def mnist_folder(tmp_path):
    """Random images of 28 × 28 in the files and names of MNIST: 50 to learn, 9 to be asked."""
    rng = np.random.default_rng(0)
    for prefix, n in (("train", 50), ("t10k", 9)):
        images, labels = rng.integers(0, 256, (n, 28, 28)), np.arange(n) % 10
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            (tmp_path / f"{prefix}-{name}-ubyte").write_bytes(head + values.astype("u1").tobytes())
    return str(tmp_path)


def test_data_from_a_folder_of_mnist(mnist_folder):
    found = load_data(0, 40, per_pixel=False, folder=mnist_folder)
    assert found.x.shape == (40, 784) and found.x_asked.shape == (9, 784)
    assert found.y_asked.tolist() == [*range(9)]


def test_accuracy_on_mnist_of_a_folder(mnist_folder):
    params = dataclasses.replace(
        digits_accuracy.QUICK, mnist=mnist_folder, activations=("ReLU",), depths=(4,), seeds=2,
        steps=3, points=3, batch=8, mnist_learn=40,
    )  # fmt: skip
    rows = digits_accuracy.compute(params)
    shares = [row["accuracy"] for row in rows if row["kind"] == "net"]
    assert len(shares) == 10 and all(
        share * 9 == pytest.approx(round(share * 9)) for share in shares
    )


def test_mnist_is_refused_where_it_has_no_use(capsys):
    assert _run.main(["dead_units", "--mnist", "nowhere"]) == 2
    assert "--mnist is for digits_accuracy; dead_units has no use" in capsys.readouterr().err


# Paired claims


def test_compare_is_students_paired_test():
    rng = np.random.default_rng(0)
    pairs = [({"at": i}, rng.normal(size=8), rng.normal(size=8) + i) for i in range(4)]
    rows = compare(pairs)
    for row, (_, first, second) in zip(rows, pairs, strict=True):
        known = stats.ttest_rel(second, first)
        low, high = known.confidence_interval(0.95)
        assert row["p_single"] == pytest.approx(known.pvalue, rel=1e-9)
        assert row["difference"] == pytest.approx((low + high) / 2)
        assert row["half_width"] == pytest.approx((high - low) / 2)
        assert row["p_single"] <= row["p_value"] <= 1


def test_compare_at_no_spread_and_bad_input():
    ones = np.ones(5)
    same, apart = compare([({}, ones, ones), ({}, ones, 2 * ones)])
    assert same["p_value"] == 1 and apart["p_value"] == 0
    for wrong in ([1.0], [[1.0, 2.0]], [np.nan, 1.0]):
        with pytest.raises(ValueError, match="needs two or more finite pairs"):
            compare([({}, np.zeros_like(wrong), np.array(wrong))])


def test_holm_by_its_definition():
    p = np.array([0.04, 0.001, 0.03, 0.9, 0.012])
    order = np.argsort(p)
    worst, expected = 0.0, {}
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, p[index] * (len(p) - rank)))
        expected[index] = worst
    assert holm(p).tolist() == [expected[i] for i in range(len(p))]


def familywise(corrected):
    """Whether any of ten true nulls is rejected at 5 %, trial by trial."""

    def draw(size, rng):
        out = np.empty(size, dtype=bool)
        for trial in range(size):
            rows = compare([({}, *rng.normal(size=(2, 6))) for _ in range(10)])
            out[trial] = min(row["p_value" if corrected else "p_single"] for row in rows) < 0.05
        return out

    return draw


@pytest.mark.slow
def test_ten_true_nulls_are_rejected_at_the_rate_stated():
    stat.assert_rate(
        "familywise rate of ten paired claims",
        familywise(corrected=True),
        expected=1 - (1 - 0.05 / 10) ** 10,
        detect=0.12,
        mutant=familywise(corrected=False),
    )


# Dead units


def test_the_dead_relu_example():
    relu = dead_units.example(nn.ReLU(), dead_units.QUICK)
    assert all((row["w"], row["b"]) == (0.0, -1.0) for row in relu)
    assert all(row["dw"] == 0 and row["db"] == 0 for row in relu)
    leaky = dead_units.example(nn.LeakyReLU(0.1), dead_units.QUICK)
    assert leaky[0]["dw"] == pytest.approx(0.16 / 3, rel=1e-14)
    assert leaky[0]["db"] == pytest.approx(-0.22, rel=1e-14)
    assert leaky[0]["loss"] == pytest.approx((1.1**2 + 0.1**2 + 2.1**2) / 3, rel=1e-14)
    assert leaky[-1]["loss"] < 0.1 < relu[-1]["loss"]


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "phased_relu"])
def test_dead_units_are_counted_as_one_would_by_hand(name, data):
    phi = dead_units.activation(name, **dead_units.ACTIVATIONS[name])
    params = dead_units.QUICK
    nets = [dead_units._net(params, phi, seed, -4.0) for seed in range(3)]
    found = dead_units.dead_share(Stack(nets), data.x)
    for net, share in zip(nets, found, strict=True):
        h, dead = data.x, []
        for layer, act in list(zip(net.layers, net.activations, strict=False)):
            z = layer(h).detach()
            edge = {"relu": 0.0, "leaky_relu": -np.inf, "phased_relu": -2.0}[name]
            dead += (z < edge).all(dim=0).tolist()
            h = act(z)
        assert share == pytest.approx(np.mean(dead))
    assert (found > 0).all() == (name != "leaky_relu")


# Accuracy against depth


@pytest.mark.parametrize("name", list(digits_accuracy.ACTIVATIONS))
def test_the_textbook_net_and_its_relatives(name):
    """As many weight layers as the depth says, the textbook sizes, activations in between."""
    for pixels, features in ((64, 80), (784, 320)):
        net = digits_accuracy.build(name, 4, False, pixels)
        weights = [m for m in net if isinstance(m, nn.Conv2d | nn.Linear)]
        assert [tuple(m.weight.shape[:2]) for m in weights] == [
            (10, 1), (20, 10), (50, features), (10, 50)
        ]  # fmt: skip
        assert net(torch.zeros(3, pixels)).shape == (3, 10)
        assert sum(isinstance(m, nn.Dropout | nn.Dropout2d) for m in net) == 2
    for depth in (2, 4, 9):
        for normalized in (False, True):
            parts = list(digits_accuracy.build(name, depth, normalized, 64))
            kind = type(digits_accuracy.ACTIVATIONS[name](1))
            assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in parts) == depth
            assert sum(isinstance(m, kind) for m in parts) == depth - 1
            norms = sum(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in parts)
            assert norms == (depth - 1) * normalized
    slopes = [m.weight.numel() for m in parts if isinstance(m, nn.PReLU)]
    expected = {"PReLU shared": [1] * 8, "PReLU per channel": [10, 20] + [50] * 6}
    assert slopes == expected.get(name, [])


@pytest.mark.parametrize("name", ["ReLU", "PReLU per channel", "Mish"])
def test_the_two_kinds_of_weights_are_torchs_and_the_theorys(name):
    images = torch.rand(100, 64, generator=torch.Generator().manual_seed(0))
    data = [Data(images, torch.zeros(100), images, torch.zeros(100))] * 3
    stack = digits_accuracy._nets(
        digits_accuracy.FULL, [0, 1, 2], name, 12, False, digits_accuracy.INITS, data
    )
    weight = stack.weights["15.weight"].detach()  # 50 × 50, between hidden layers
    gains = (50 * weight.square().mean(dim=(1, 2))).sqrt().tolist()
    theory = {"ReLU": 2**0.5, "PReLU per channel": 1.37199, "Mish": 1.486848}[name]
    assert weight.shape == (6, 50, 50)
    assert gains[:3] == pytest.approx([3**-0.5] * 3, rel=0.05)
    assert gains[3:] == pytest.approx([theory] * 3, rel=0.08)
