"""The table of architectures that predictions are held against, and what is measured of them."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from analyses import _library_models
from analyses._architectures import (
    ARCHITECTURES,
    BY_NAME,
    Spread,
    drawn,
    natural_images,
    normal,
    truth,
    with_mean_squares,
    with_natural_images,
)
from analyses._health import Patient
from analyses._streams import Streams

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
each = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)


def test_the_table_is_as_large_as_it_should_be():
    assert len(BY_NAME) == len(ARCHITECTURES) >= 34
    assert {a.kind for a in ARCHITECTURES} >= {"images", "tokens", "vectors", "sequences"}


@each
def test_every_node_is_measured(architecture):
    """Finite and not zero, but for what no gradient reaches."""
    found = truth(architecture, [3])
    weights = [node for node in found.nodes.values() if node.kind == "weight"]
    assert len(weights) >= 3 or architecture.family == "recurrent"
    for node in weights:
        assert node.q.mean > 0 and math.isfinite(node.q.mean)
    reached = [node.gradient for node in weights if node.gradient is not None]
    assert len(reached) >= len(weights) - 1  # WaveNet's last residual leads nowhere
    assert all(spread.mean > 0 and math.isfinite(spread.mean) for spread in reached)
    assert found.nodes["output"].gradient.mean == 1


@each
def test_the_flag_of_norms_is_right(architecture):
    model = architecture.build()
    by_hand = architecture.name in ("llama", "t5_encoder")
    has = by_hand or any(isinstance(module, NORMS) for module in model.modules())
    assert architecture.norms == has


@pytest.mark.parametrize("name", ["mlp_tanh", "bert"])
def test_the_same_seed_draws_the_same(name):
    assert truth(BY_NAME[name], [3]) == truth(BY_NAME[name], [3])


def test_seeds_draw_weights_inputs_and_cotangents_anew():
    architecture = BY_NAME["mlp_tanh"]
    both, one, other = (truth(architecture, seeds) for seeds in ([1, 2], [1], [2]))
    for name in ("input", "0", "40"):
        parts = ("q", "gradient")
        values = [[getattr(t.nodes[name], part).mean for part in parts] for t in (one, other, both)]
        for a, b, mean in zip(*values, strict=True):
            if (name, a) != ("40", pytest.approx(1)):
                assert a != b
            assert mean == pytest.approx((a + b) / 2)
    spread = both.parameters["0.weight"]
    logs = [math.log(t.parameters["0.weight"].mean) for t in (one, other)]
    assert spread.log_mean == pytest.approx(sum(logs) / 2)
    assert spread.log_std == pytest.approx(abs(logs[0] - logs[1]) / math.sqrt(2))
    with pytest.raises(ValueError, match="at least one"):
        truth(architecture, [])


def test_a_spread_counts_what_is_missing_zero_or_infinite():
    assert Spread.of([None, None]) is None
    assert Spread.of([0.0, None]) == Spread(0.0, None, None, 1, 1)
    found = Spread.of([1.0, 0.0, math.e**2, None])
    assert dataclasses.astuple(found)[1:] == pytest.approx((1.0, math.sqrt(2), 3, 1))
    assert Spread.of([math.inf, 1.0]) == Spread(math.inf, 0.0, None, 2, 0)


def test_torchs_random_state_is_left_alone():
    before = torch.get_rng_state()
    truth(BY_NAME["bert"], [0])
    assert torch.equal(before, torch.get_rng_state())


def test_photographs():
    pytest.importorskip("sklearn")
    images = natural_images(16, 12, seed=1)
    assert images.shape == (12, 3, 16, 16)
    assert images.mean() == pytest.approx(0, abs=1e-5) and images.std() == pytest.approx(1)
    assert torch.equal(images, natural_images(16, 12, seed=1))
    assert not torch.equal(images, natural_images(16, 12, seed=2))
    near = (images[..., 1:] * images[..., :-1]).mean()
    assert near > 0.7, "neighbours in photographs are alike"


def test_a_patient_is_no_copy_of_what_it_is_given():
    """Normal weights and inputs drawn by one seed would be the same numbers."""
    patient = Patient("", "", lambda: nn.ParameterList([torch.randn(32, 64)]), normal(32, 64))
    (weight,), (x,) = patient.admitted(0)
    assert abs(float((weight.detach() * x).mean())) < 0.15  # six standard errors


def test_weights_inputs_and_cotangents_are_independent():
    """torch makes one stream of a seed and of that seed plus 2**32."""
    streams = dataclasses.astuple(Streams.of(3)) + dataclasses.astuple(Streams.of(4))
    assert len({seed % 2**32 for seed in streams}) == len(streams) == 8
    found = truth(BY_NAME["diffusion_unet"], range(4))  # its output has the shape of its input
    n = 8 * 16 * 16
    q = found.nodes["silu"].q.mean
    assert found.parameters["out.weight"].mean == pytest.approx(n * q, rel=0.5)


def test_a_net_takes_the_mean_squares_of_many():
    found = truth(BY_NAME["siren"], range(3))
    (own, _), others = drawn(BY_NAME["siren"], 0), [drawn(BY_NAME["siren"], s)[0] for s in range(3)]
    before = {name: p.detach().clone() for name, p in own.named_parameters()}
    for name, parameter in with_mean_squares(own, found.squares).named_parameters():
        squares = [dict(o.named_parameters())[name].square().mean().item() for o in others]
        assert parameter.square().mean().item() == pytest.approx(sum(squares) / 3, rel=1e-5)
        ratio = parameter / before[name]
        assert torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio), rtol=1e-4)


def test_an_architecture_sees_photographs():
    pytest.importorskip("sklearn")
    architecture = with_natural_images(BY_NAME["vgg11"])
    found = truth(architecture, [0, 1])
    assert found.nodes["x"].q.mean == pytest.approx(1, rel=1e-3)
    _, (images,) = drawn(architecture, 0)
    assert images.shape == (16, 3, 32, 32)
    with pytest.raises(ValueError, match="tokens, no images"):
        with_natural_images(BY_NAME["gpt2"])


def test_a_library_that_does_not_work_is_left_out(monkeypatch):
    def broken():
        raise RuntimeError("operator nms does not exist")

    names = ("torchvision", "timm", "transformers")
    for name in names:
        monkeypatch.setattr(_library_models, f"_{name}", broken)
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: object() if name == "timm" else None
    )
    with pytest.warns(UserWarning, match="timm is installed and does not work"):
        assert _library_models.installed_architectures() == ()
