"""Normalizations written out in a model's code: over which dimensions, and whether they centre."""

from __future__ import annotations

import math

import torch

from sigprop.reading.steps import CannotReplay, Step, replay
from sigprop.theory.network import CannotPredict

_SIZE = 1e3
_TOLERANCE = 1e-3


def hand_written(end: Step, base: Step) -> tuple[tuple[int, ...], bool, float]:
    """(dimensions, centred, root mean square of what leaves) of a normalization, by trying it.

    Dimensions are those along which one part, made larger, changes the others; centred is one that
    a number added to all does not change.

    Raises:
        CannotPredict: it cannot be run by itself.
    """
    if base.shape is None:
        raise CannotPredict("a normalization of unknown shape")
    shape = tuple(min(n, 6) for n in base.shape)
    failed: CannotReplay | None = None
    for tried in (shape, base.shape):
        x = torch.randn(tried, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        try:
            out = _run(end, base, _SIZE * x)
        except CannotReplay as reason:
            failed = reason
            continue
        if out.shape == x.shape:
            _check_size(out, _run(end, base, _SIZE * x.exp()))
            if base.measured is not None and base.measured.q > 0:
                _check_size(out, _run(end, base, math.sqrt(base.measured.q) * x))
            return _tried(end, base, _SIZE * x, out)
    raise CannotPredict("a normalization that cannot be run by itself") from failed


def _check_size(out: torch.Tensor, skewed: torch.Tensor) -> None:
    """What leaves a normalization has one size, whatever the law and the size of the entries.

    Raises:
        CannotPredict: x is divided by another number than its root mean square.
    """
    sizes = [float(each.square().mean()) for each in (out, skewed)]
    if not abs(sizes[0] - sizes[1]) <= 0.01 * max(sizes):
        raise CannotPredict("x over something that is not its root mean square")


def _run(end: Step, base: Step, x: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = replay(end, {base: x}, dtype=torch.float64)
    return found


def _tried(
    end: Step, base: Step, x: torch.Tensor, out: torch.Tensor
) -> tuple[tuple[int, ...], bool, float]:
    dims = []
    for dim, n in enumerate(x.shape):
        if n < 2:
            continue
        changed = x.clone()
        changed.select(dim, 0).mul_(3.0)
        rest = _run(end, base, changed).narrow(dim, 1, n - 1)
        before = out.narrow(dim, 1, n - 1)
        if not torch.allclose(rest, before, rtol=_TOLERANCE, atol=_TOLERANCE):
            dims.append(dim)
    same = torch.allclose(_run(end, base, x + _SIZE), out, rtol=_TOLERANCE, atol=_TOLERANCE)
    return tuple(dims), same, _size(end, base, out)


def _size(end: Step, base: Step, tried: torch.Tensor) -> float:
    """Root mean square of what leaves; of x/‖x‖ it depends on how many entries x has."""
    source = torch.Generator().manual_seed(0)
    try:
        x = torch.randn(base.shape or (), generator=source, dtype=torch.float64)
        tried = _run(end, base, _SIZE * x)
    except CannotReplay:
        pass
    return math.sqrt(float(tried.square().mean()))
