"""Predictions held against simulation: many small nets, drawn by one seed, each run once.

A net is a lift (a layer whose output is Gaussian), the operation under test, and perhaps a tail.
Compared are moments of what leaves, of the gradient behind the lift, and of the gradients of
parameters; a moment passes if it is within its tolerance (the rule's own error, stated) and its
standard errors. False alarms are in the ledger of ``tests.stat``; a mutant must be rejected.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from sigprop.theory.network import SignalState
from tests.stat import FALSE_ALARM, LEDGER, Entry, Rejected

Build = Callable[[], nn.Module]
Draw = Callable[[torch.Generator], Tensor]


class Op(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@dataclass(frozen=True)
class Moment:
    """One number over many nets."""

    mean: float
    error: float
    count: int


def normalized(model: nn.Module) -> nn.Module:
    """Weights and tables at an exact mean square, 1/fan_in; biases at 1/20; scales as they are."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                fan_in = parameter[0].numel()
                parameter.normal_()
                parameter.mul_(1 / (parameter.square().mean().sqrt() * fan_in**0.5))
            elif name.endswith("bias") and parameter.dim() == 1:
                parameter.normal_().mul_(0.2)
                parameter.sub_(parameter.mean())
                parameter.mul_(0.2 / parameter.square().mean().sqrt().clamp(min=1e-9))
    return model


def built(build: Build) -> nn.Module:
    """The net before its weights are drawn: what stays of it is the same wherever it is built."""
    torch.manual_seed(0)
    return build()


def simulate(build: Build, draw: Draw, nets: int, name: str, lift: str = "0") -> dict[str, Moment]:
    """Moments over nets: of what leaves, of the gradient behind the lift, of parameters.

    One module stands for all of them, whose weights are drawn anew.
    """
    found: dict[str, list[float]] = {}
    source = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    model, kept = built(build), list[Tensor]()
    model.get_submodule(lift).register_forward_hook(_keeper(kept))
    for _ in range(nets):
        torch.default_generator.manual_seed(int(torch.randint(2**31, (1,), generator=source)))
        normalized(model).zero_grad()
        kept.clear()
        out = model(draw(source))
        cotangent = torch.randn(out.shape, generator=source).to(out)
        (out * cotangent / cotangent.square().mean().sqrt()).sum().backward()
        row = {f"out {k}": v for k, v in moments(out.detach()).items()}
        if kept and kept[0].grad is not None:
            row |= {f"gradient {k}": v for k, v in moments(kept[0].grad).items() if k != "mean"}
        for key, parameter in model.named_parameters():
            if parameter.grad is not None:
                row[f"parameter {key}"] = float(parameter.grad.double().square().mean())
        for key, value in row.items():
            found.setdefault(key, []).append(value)
    return {
        key: Moment(float(np.mean(v)), float(np.std(v, ddof=1) / math.sqrt(len(v))), len(v))
        for key, v in found.items()
    }


def _keeper(kept: list[Tensor]) -> Callable[..., None]:
    def keep(module: nn.Module, inputs: object, out: Tensor) -> None:
        out.retain_grad()
        kept.append(out)

    return keep


def moments(x: Tensor) -> dict[str, float]:
    """Of one tensor: mean, q, and E x y of entries that differ in one dimension."""
    x = x.double()
    total = float(x.square().sum())
    found = {"mean": float(x.mean()), "q": total / x.numel()}
    for dim, n in enumerate(x.shape):
        if n > 1:
            every = float(x.sum(dim).square().sum())
            found[f"apart in {dim}"] = (every - total) / (x.numel() * (n - 1))
    return found


def of_state(state: SignalState) -> dict[str, float]:
    """The same of a state."""
    found = {"mean": state.mean_entry, "q": state.q}
    for dim, n in enumerate(state.shape):
        if n > 1:
            spread = state.q - state.mean_entry**2
            c = state.correlation([dim])
            found[f"apart in {dim}"] = state.mean_entry**2 + (0.0 if math.isnan(c) else c) * spread
    return found


def predicted(
    build: Build, shape: tuple[int, ...] | Tensor, lift: str = "0", **options: object
) -> dict[str, float]:
    """The same moments as predicted for standard normal inputs, or for one example."""
    from sigprop.prediction.entry import propagated

    found, output = propagated(normalized(built(build)), shape, **options)  # type: ignore[arg-type]
    row = {f"out {k}": v for k, v in of_state(found.states[output]).items()}
    if isinstance(found.gradients.get(lift), SignalState):
        row |= {
            f"gradient {k}": v for k, v in of_state(found.gradients[lift]).items() if k != "mean"
        }
    return row | {f"parameter {name}": value for name, value in found.parameters.items()}


def assert_predicts(
    name: str,
    build: Build,
    shape: tuple[int, ...] | Tensor,
    *,
    nets: int = 300,
    tolerance: float | Mapping[str, float] = 0.02,
    skip: tuple[str, ...] = (),
    mutant: float = 1.25,
    lift: str = "0",
    **options: object,
) -> None:
    """Assert that the prediction holds over nets, and that one with an error would not pass.

    Args:
        name: of the check; seeds its draws.
        build: a fresh net.
        shape: of its input, N(0, 1); or the input of all nets.
        nets: drawn.
        tolerance: the rule's own error, relative to the scale of each moment; by key or for all.
        skip: beginnings of keys that the rule says nothing of.
        mutant: factor on every predicted number that must be rejected.
        lift: path of the module behind whose output the gradient is compared.
        options: of ``predict``.
    """
    truth = _simulated(name, build, shape, nets, lift)
    said = predicted(build, shape, lift, **options)
    keys = [key for key in truth if not key.startswith(skip)] if skip else list(truth)
    missing = [key for key in keys if key not in said]
    assert not missing, f"{name}: nothing is predicted for {missing}"
    LEDGER[name] = Entry(name, FALSE_ALARM, nets)
    limit = float(stats.norm.isf(FALSE_ALARM / (2 * len(keys))))
    wrong = _wrong(said, truth, keys, tolerance, limit)
    assert not wrong, f"{name}: " + "; ".join(wrong)
    mutated = {key: value * mutant for key, value in said.items()}
    if not _wrong(mutated, truth, keys, tolerance, limit):
        raise Rejected(f"{name}: a mutant of {mutant} times passes")


_SIMULATED: dict[tuple[object, ...], dict[str, Moment]] = {}


def _simulated(
    name: str, build: Build, shape: tuple[int, ...] | Tensor, nets: int, lift: str
) -> dict[str, Moment]:
    """The simulation of a check, shared by checks of one name: positions alike and told apart.

    The net is a part of the key as it is printed and by the place of its code.
    """
    code = getattr(build, "__code__", None)
    place = (code.co_filename, code.co_firstlineno) if code is not None else build
    given = shape if isinstance(shape, Tensor) else None
    key = (name, place, str(build()), shape if given is None else given.shape, nets, lift)
    if key not in _SIMULATED:
        draw: Draw = lambda g: torch.randn(shape, generator=g) if given is None else given  # noqa: E731
        _SIMULATED[key] = simulate(build, draw, nets, name, lift)
    return _SIMULATED[key]


def _wrong(
    said: Mapping[str, float], truth: Mapping[str, Moment], keys: list[str],
    tolerance: float | Mapping[str, float], limit: float,
) -> list[str]:  # fmt: skip
    found = []
    for key in keys:
        moment = truth[key]
        allowed = tolerance
        if not isinstance(allowed, float | int):
            fitting = [v for k, v in allowed.items() if key.startswith(k)]
            allowed = fitting[0] if fitting else allowed.get("", 0.02)
        scale = truth[key.split(" ")[0] + " q"].mean if " apart" in key else abs(moment.mean)
        if key == "out mean":
            scale = math.sqrt(truth["out q"].mean)
        off = abs(said[key] - moment.mean)
        if off > allowed * scale + limit * moment.error + 1e-9 * scale:
            found.append(
                f"{key}: said {said[key]:.5g}, simulated {moment.mean:.5g} ± {moment.error:.2g}"
            )
    return found
