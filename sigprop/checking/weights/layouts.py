"""A linear map as a product: rows of its input, one a place, times its weight, one row a unit."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sigprop.reading.linear_maps import linear_map
from sigprop.reading.meanings import is_data
from sigprop.reading.steps import Step


@dataclass(frozen=True, eq=False)
class Layout:
    """y[place, group, unit] = Σ_c rows[place, group, c] · weight[group, unit, c], and the bias.

    Attributes:
        places: how many there are: samples, tokens, pixels of the output.
        rows: of the input at some places: (places asked for, groups, columns).
        weight: the weight in use as (groups, units, columns).
        outputs: what leaves the map, or the gradient there, as (places, groups, units).
        turned: whether the weight is stored by its inputs, several taps each, so that rows of
            what is stored are no rows of the product: transposed convolutions.
    """

    places: int
    rows: Callable[[Tensor], Tensor]
    weight: Callable[[Tensor], Tensor]
    outputs: Callable[[Tensor], Tensor]
    turned: bool = False


def operands(step: Step) -> tuple[Any, Any] | None:
    """The signal and the weight of a step that is a linear map of one signal; None: it is not."""
    if step.row is None or step.row.kind != "weight":
        return None
    found = linear_map(step, step.row.name)
    if found.kind != "weight" or len(found.inputs) != 1 or found.operand is None:
        return None
    return found.inputs[0], found.operand


def layout(step: Step, signal: Tensor, shape: Sequence[int], made: Sequence[int]) -> Layout | None:
    """How a linear map multiplies.

    Args:
        step: the map.
        signal: its input.
        shape: of its weight in use.
        made: shape of what leaves it.

    Returns:
        None where the map is none of those known: linear, convolutions and transposed ones,
        products of matrices, ``einsum`` of two.
    """
    name = step.row.name if step.row is not None else ""
    if name == "linear":
        labels = "..i,oi->..o" if len(shape) == 2 else "..i,i->.."
        return _contraction(labels.replace("..", _spare(signal.dim() - 1)), signal, shape, made)
    if name.startswith("conv"):
        return _convolution(step, name, signal, shape, made)
    labels = _einsum(step, signal, shape) if name == "einsum" else _matmul(step, signal, shape)
    return _contraction(labels, signal, shape, made) if labels else None


# Products of matrices, and all that is written as an einsum of a signal and a weight


def _spare(count: int) -> str:
    """Letters that no equation of ours uses for anything else."""
    return string.ascii_uppercase[:count]


def _matmul(step: Step, signal: Tensor, shape: Sequence[int]) -> str:
    """The equation of a matrix product, the signal first; "" if it is not known."""
    name = getattr(step.func, "__name__", "")
    if name in ("chain_matmul", "multi_dot", "vdot"):
        return ""
    first = 1 if step.row is not None and step.row.name == "addmm" else 0
    on_the_left = is_data(step.args[first]) if len(step.args) > first else True
    left, right = signal.dim(), len(shape)
    if not on_the_left:
        left, right = right, left
    if name == "inner":
        batch = _spare(left - 1)
        before, after = f"{batch}x", string.ascii_lowercase[: right - 1] + "x"
        made = batch + after[:-1]
    else:
        batch = _spare(max(left, right, 2) - 2)
        before = "x" if left == 1 else f"{batch[len(batch) - left + 2 :]}ix"
        after = "x" if right == 1 else f"{batch[len(batch) - right + 2 :]}xk"
        made = batch + "i" * (left > 1) + "k" * (right > 1)
    sides = (before, after) if on_the_left else (after, before)
    return f"{sides[0]},{sides[1]}->{made}"


def _einsum(step: Step, signal: Tensor, shape: Sequence[int]) -> str:
    """The equation of an einsum of two, the signal first, its ellipsis written out."""
    equation, given = step.argument(0, "equation"), list(step.args[1:])
    if len(given) == 1 and isinstance(given[0], list | tuple):
        given = list(given[0])
    taken, arrow, made = equation.replace(" ", "").partition("->")
    labels = taken.split(",")
    if not arrow:
        letters = taken.replace(",", "").replace(".", "")
        made = "..." * ("." in taken) + "".join(c for c in sorted(letters) if letters.count(c) == 1)
    if not is_data(given[0]):
        labels.reverse()
    ellipsis = signal.dim() - len(labels[0].replace(".", ""))
    spare = "".join(c for c in string.ascii_uppercase if c not in equation)[:ellipsis]
    return f"{labels[0]},{labels[1]}->{made}".replace("...", spare)


def _contraction(
    equation: str, signal: Tensor, shape: Sequence[int], made: Sequence[int]
) -> Layout | None:
    """Labels of one entry are left out first: whatever is broadcast is of one entry somewhere."""
    taken, _, out = equation.partition("->")
    x, _, w = taken.partition(",")
    shapes = (tuple(signal.shape), tuple(shape), tuple(made))
    if any(len(each) != len(labels) for each, labels in zip(shapes, (x, w, out), strict=True)):
        return None
    x, w, out = (
        "".join(c for c, size in zip(labels, each, strict=True) if size != 1)
        for labels, each in zip((x, w, out), shapes, strict=True)
    )
    sizes = dict(zip(x + w, _larger(shapes[0]) + _larger(shapes[1]), strict=True))
    columns = "".join(c for c in w if c in x and c not in out)
    groups = "".join(c for c in w if c in x and c in out)
    units = "".join(c for c in w if c not in x)
    places = "".join(c for c in x if c not in w)
    known = set(places) | set(units) <= set(out) and all(len(set(s)) == len(s) for s in (x, w, out))
    if not known or set(out) - set(x) - set(w):
        return None

    def arranged(tensor: Tensor, labels: str, *parts: str) -> Tensor:
        whole = tensor.reshape([sizes[c] for c in labels])
        turned = whole.permute([labels.index(c) for part in parts for c in part])
        return turned.reshape([math.prod(sizes[c] for c in part) for part in parts])

    return Layout(
        math.prod(sizes[c] for c in places),
        lambda chosen: arranged(signal, x, places, groups, columns)[chosen.to(signal.device)],
        lambda weight: arranged(weight, w, groups, units, columns),
        lambda values: arranged(values, out, places, groups, units),
    )


def _larger(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


# Convolutions: rows are gathered at the places asked for


def _convolution(
    step: Step, name: str, signal: Tensor, shape: Sequence[int], made: Sequence[int]
) -> Layout:
    back, dims = name.startswith("conv_transpose"), int(name[-2])
    groups = int(step.argument(6, "groups", 1))
    if signal.dim() == dims + 1:
        signal, made = signal[None], (1, *made)
    kernel, space = tuple(shape[2:]), tuple(made[2:])
    settings = _settings(step, name, kernel)
    axes = [
        _Axis(back, signal.shape[2 + d], kernel[d], *(each[d] for each in settings))
        for d in range(dims)
    ]

    def rows(chosen: Tensor) -> Tensor:
        sample, *at = torch.unravel_index(chosen.to(signal.device), (made[0], *space))
        found = [axis.sources(index) for axis, index in zip(axes, at, strict=True)]
        index: list[Any] = [sample.reshape(-1, *[1] * dims), slice(None)]
        inside: Tensor | None = None
        for d, (position, valid) in enumerate(found):
            view = [len(sample), *[1] * d, kernel[d], *[1] * (dims - d - 1)]
            index.append(position.reshape(view))
            mask = valid.reshape(view)
            inside = mask if inside is None else inside & mask
        assert inside is not None
        patch = signal[tuple(index)].movedim(-1, 1) * inside[:, None]
        return patch.reshape(len(sample), groups, -1)

    def weight(value: Tensor) -> Tensor:
        if not back:
            return value.reshape(groups, shape[0] // groups, -1)
        taps = math.prod(kernel)
        parts = value.reshape(groups, shape[0] // groups, shape[1], taps)
        return parts.transpose(1, 2).reshape(groups, shape[1], -1)

    def outputs(values: Tensor) -> Tensor:
        whole = values.reshape(made[0], groups, made[1] // groups, -1)
        return whole.permute(0, 3, 1, 2).flatten(0, 1)

    return Layout(made[0] * math.prod(space), rows, weight, outputs, turned=back)


@dataclass(frozen=True)
class _Axis:
    """Which entries of the input one axis of a convolution reads."""

    back: bool
    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    def sources(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """For each place and tap the place in the input, and whether there is one."""
        taps = self.dilation * torch.arange(self.kernel, device=index.device)
        if self.back:
            reached = index[:, None] + self.padding - taps
            at, met = reached.div(self.stride, rounding_mode="floor"), reached % self.stride == 0
        else:
            at = index[:, None] * self.stride - self.padding + taps
            met = torch.ones_like(at, dtype=torch.bool)
        return at.clamp(0, self.size - 1), met & (at >= 0) & (at < self.size)


def _settings(step: Step, name: str, kernel: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Stride, padding and dilation, one number an axis each."""
    back, dims = name.startswith("conv_transpose"), len(kernel)
    dilation = _each(step.argument(7 if back else 5, "dilation", 1), dims)
    padding = step.argument(4, "padding", 0)
    if padding == "same":
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
    padding = 0 if padding == "valid" else padding
    return _each(step.argument(3, "stride", 1), dims), _each(padding, dims), dilation


def _each(value: Any, dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value) * (dims // len(value))
