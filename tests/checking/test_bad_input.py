"""What ``check`` is given that it cannot judge, or that hides something: named, nothing changed."""

import random
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sigprop.checking import words
from sigprop.checking.entry import check


def linear(**kind):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16, **kind), nn.ReLU(), nn.Linear(16, 4, **kind))


def x(*shape, **kind):
    shape = shape or (6, 8)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), **kind)


@pytest.fixture(autouse=True)
def own_random_state():
    with torch.random.fork_rng(devices=[]):
        yield


def state(model, example):
    """All that a run of a model may change."""
    tensors = example if isinstance(example, tuple) else (example,)
    return {
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "grads": {n: (id(p.grad), None if p.grad is None else p.grad.clone())
                  for n, p in model.named_parameters()},
        "train": {name: module.training for name, module in model.named_modules()},
        "frozen": {name: p.requires_grad for name, p in model.named_parameters()},
        "hooks": {name: len(m._forward_hooks) + len(m._forward_pre_hooks)
                  for name, m in model.named_modules()},
        "attributes": {name: sorted(vars(m)) for name, m in model.named_modules()},
        "torch": torch.get_rng_state(), "numpy": np.random.get_state()[1].copy(),  # noqa: NPY002
        "python": random.getstate(),
        "inputs": [t.clone() for t in tensors if isinstance(t, torch.Tensor)],
        "asks": [t.requires_grad for t in tensors if isinstance(t, torch.Tensor)],
    }  # fmt: skip


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


@contextmanager
def unchanged(model, example):
    before = state(model, example)
    yield
    after = state(model, example)
    assert [key for key in before if not same(before[key], after[key])] == []


def test_a_change_would_be_seen():
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Dropout())
    with pytest.raises(AssertionError, match="values"), unchanged(model, x()):
        model(x())
    with pytest.raises(AssertionError, match="train"), unchanged(model, x()):
        model.eval()
    with pytest.raises(AssertionError, match="grads"), unchanged(model, x()):
        model[0](x()).sum().backward()


# Refused, with what to do


class KeyMissing(nn.Module):
    def forward(self, x):
        return {"a": x}["b"]


class Asserts(nn.Module):
    def forward(self, x):
        assert x.shape[1] == 5, "five features"


REFUSED = {
    "shape": (linear, lambda: x(6, 5), r"does not run on input \(6, 5\) float32 cpu\. It says: "
              r"RuntimeError: mat1 and mat2 .* Give x in the shape that the model takes"),
    "dimensions": (lambda: nn.Conv2d(3, 4, 3), x, r"Expected 3D .* Give x in the shape"),
    "type": (linear, lambda: x().double(), r"float64 cpu\. .* Cast the input or the model"),
    "whole numbers": (linear, lambda: torch.ones(6, 8, dtype=torch.long),
                      r"int64 cpu\. .* Cast the input or the model"),
    "too many": (linear, lambda: (x(), x()), r"positional arguments .* a tuple by position"),
    "a wrong name": (linear, lambda: {"y": x()}, r"keyword argument 'y'.* a dict by name"),
    "tokens": (lambda: nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2)),
               lambda: torch.full((2, 3), 9), "below the size of the table"),
    "one sample in a batch norm": (
        lambda: nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4)), lambda: x(1, 8),
        r"more than 1 value per channel .* at least 2 samples: .* model\.eval\(\)"),
    "its own error": (KeyMissing, x, "does not run on x .* It says: KeyError: 'b'"),
    "its own assertion": (Asserts, x, "It says: AssertionError: five features"),
    "NaN": (linear, lambda: torch.full((6, 8), torch.nan), "NaN or infinite numbers"),
    "no entries": (linear, lambda: x(0, 8), "no entries"),
    "a shape of none": (linear, lambda: (0, 8), "sizes of at least 1"),
    "meta model": (lambda: linear(device="meta"), lambda: (6, 8), r"'0\.weight' is on the meta "
                   r"device .* sigprop\.predict\(model, x\) needs none; or .*initialize"),
    "meta input": (linear, lambda: x().to("meta"),
                   "input 'input' is on the meta device .* give one with values, or its shape"),
    "quantized input": (linear, lambda: torch.quantize_per_tensor(x(), 0.1, 0, torch.qint8),
                        "'input' is quantized: check the model in floating point"),
    "sparse": (linear, lambda: torch.eye(8).to_sparse(), r"sparse_coo .* give x\.to_dense\(\)"),
    "complex input": (lambda: nn.Linear(8, 4, dtype=torch.complex64),
                      lambda: x(dtype=torch.complex64), "complex: .* real and imaginary parts"),
    "complex weights": (lambda: nn.Linear(8, 4, dtype=torch.complex64), lambda: (6, 8),
                        "'weight' is complex: .* real and imaginary parts as channels"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*(quantiz|Sparse|ComplexHalf).*")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_checked_is_refused_with_what_to_do(case):
    build, example, words = REFUSED[case]
    model, given = build(), example()
    plain = isinstance(given, torch.Tensor) and not (given.is_quantized or given.is_sparse)
    if case == "NaN" or not plain or given.is_meta:
        with pytest.raises(ValueError, match=f"(?s){words}"):
            check(model, given)
        return
    with unchanged(model, given), pytest.raises(ValueError, match=f"(?s){words}"):
        check(model, given)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_quantized_model_is_refused():
    from torch.ao.quantization import quantize_dynamic

    model = quantize_dynamic(linear(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ValueError, match=r"'0' is quantized .* before it is converted"):
        check(model, x())


@pytest.mark.parametrize(
    ("model", "given", "words"),
    [
        (lambda x: x, (6, 8), "model must be a torch.nn.Module; got function"),
        (nn.Linear, (6, 8), "model must be a torch.nn.Module; got the class Linear"),
        (nn.Linear(8, 4), None, "needs an example or a shape"),
    ],
)
def test_no_model_or_no_example(model, given, words):
    with pytest.raises(TypeError, match=words):
        check(model, given)


# Checked, and what it hides is said


def problems(report):
    return {finding.problem: finding for finding in report.findings}


class ChangesWhenRun(nn.Module):
    """Everything that a model may change as it runs."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(8, 16), nn.BatchNorm1d(16)
        self.drop, self.last = nn.Dropout(0.3), nn.Linear(16, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.seen = x.shape
        x.mul_(2)
        noise = random.random() + np.random.rand()  # noqa: NPY002
        return self.last(self.drop(F.relu(self.norm(self.first(x))))) * (1 + 0 * noise)


@pytest.mark.parametrize("training", [True, False])
def test_a_model_that_changes_when_run_is_given_back_as_it_was(training):
    model, given = ChangesWhenRun().train(training), x()
    model.first.weight.grad = torch.ones_like(model.first.weight)
    with unchanged(model, given):
        report = check(model, given)
    assert [layer.name for layer in report.layers] == ["first", "last"]
    assert all(layer.gradient > 0 for layer in report.layers)


class WithoutGradient(nn.Module):
    def __init__(self, end):
        super().__init__()
        self.layer, self.end = nn.Linear(8, 4), end

    def forward(self, x):
        return self.end(self.layer(x))


@pytest.mark.parametrize(
    "end", [lambda y: y.argmax(1), lambda y: y.detach(), lambda y: None], ids=["index", "cut", "no"]
)
def test_an_output_without_a_gradient_is_judged_forward(end):
    model, given = WithoutGradient(end), x()
    with unchanged(model, given):
        report = check(model, given)
    found = problems(report)["no gradient"]
    assert found.level == "warning" and "before argmax or detach" in found.advice
    assert all(layer.gradient is None for layer in report.layers)
    assert "no gradient" in str(report) and "no gradient" in report._repr_html_()


def test_a_frozen_model_is_judged_as_if_it_were_not():
    free, frozen, given = linear(), linear().requires_grad_(False), x()
    with unchanged(frozen, given):
        report = check(frozen, given)
    assert [a.gradient for a in report.layers] == [b.gradient for b in check(free, given).layers]
    found = problems(report)["frozen"]
    assert found.level == "note" and found.detail.startswith("all parameters")
    frozen[0].requires_grad_(True)
    assert problems(check(frozen, given))["frozen"].detail.startswith("2 of 4 parameters")
    assert "frozen" not in problems(check(free, given))


@pytest.mark.parametrize(
    ("given", "problem", "words"),
    [
        (torch.zeros(6, 8), "constant input", "all its entries are 0"),
        (torch.full((6, 8), 0.5), "constant input", "all its entries are 0.5"),
        (torch.arange(8.0).expand(6, 8), "equal samples", "its 6 samples are all the same"),
        (torch.arange(8.0)[None], "one sample", "whether samples stay apart"),
    ],
)
def test_an_input_that_hides_something_is_named(given, problem, words):
    model = linear()
    with unchanged(model, given):
        report = check(model, given)
    found = problems(report)[problem]
    assert found.name == "input" and words in found.detail
    assert found.level == ("note" if problem == "one sample" else "warning")
    assert report.healthy and len(report.layers) == 2
    sound = problems(check(model, x()))
    assert not {"constant input", "equal samples", "one sample"} & sound.keys()


def test_inference_mode_and_no_grad_around_it_do_no_harm():
    model, given = linear(), x()
    wanted = [layer.gradient for layer in check(model, given).layers]
    with torch.no_grad():
        assert [layer.gradient for layer in check(model, given).layers] == wanted
    with torch.inference_mode():
        assert [layer.gradient for layer in check(model, given).layers] == wanted


def test_a_lazy_model_stays_lazy():
    for last in (nn.LazyLinear(4), nn.LazyBatchNorm1d()):
        model = nn.Sequential(nn.Conv1d(6, 3, 1), last)
        with pytest.raises(ValueError, match="lazy"):
            check(model, x(2, 6, 8))
        assert "Lazy" in str(model)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))

    def forward(self, x, mask):
        query, key, value, out = self.parts
        return out((query(x) @ key(x).mT / 6 + mask).softmax(-1) @ value(x))


@pytest.mark.parametrize("least", [-1e4, -1e9, torch.finfo(torch.float32).min, -float("inf")])
def test_a_mask_is_data_but_no_signal(least):
    torch.manual_seed(3)
    model, mask = Masked(), torch.zeros(7, 7).masked_fill(torch.ones(7, 7).triu(1) > 0, least)
    report = check(model, (x(5, 7, 32), mask))
    assert report.healthy and report.prediction is not None
    assert all(finding.level == "note" for finding in report.findings)
    ratios = [layer.q / layer.q_predicted for layer in report.layers]
    assert ratios == pytest.approx([1.0] * 4, rel=0.5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_what_is_not_seen_is_said():
    torch.manual_seed(0)
    inner = torch.jit.script(linear())
    for model in (inner, nn.Sequential(inner, nn.Linear(4, 3))):
        report = check(model, x())
        (found,) = [f for f in report.findings if f.problem == words.NOT_JUDGED]
        assert found.level == "warning" and "0.weight" in found.detail
