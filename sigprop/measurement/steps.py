"""What each weight step and each activation step of a fully connected net did to a batch.

Given what enters a layer, Gaussian weights leave exactly known laws behind. This room takes the
statistics those laws speak of, and knows nothing of gains or slopes:

* *forward weight step*: the rows of Z = HWᵀ + b are, over units, i.i.d. normal with a covariance
  that the Gram matrix HHᵀ fixes. Mean squares of z_b and of h_b, and the cosines of H, say it all.
* *backward weight step*: the forward pass saw W only on span(H), so WᵀΔ projected off span(H) is
  fresh Gaussian noise, independent of everything forward. Its mean square over that of Δ,
  averaged over the batch, estimates gain² = fan_in·Var W.
* *activation step*: a pre-activation z and its mirror image −z are equally likely. The module is
  run at both, in the same dtype, so that what it rounds is in both; per unit, the squares of what
  it gives, forward (φ) and backward (the gradient with respect to z).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn

from sigprop.checks import FloatArray
from sigprop.measurement.step_statistics import (
    StepSignal,
    StepSignals,
    WeightStep,
    log_mean_square,
    mirrors,
    weight_steps,
)
from sigprop.nn.mlp import DeepMLP
from sigprop.results import Result

TOGETHER = 2**17
"""Numbers of layers of equal shape that are reduced in one call when all are in memory anyway."""


@dataclass(frozen=True)
class NetSteps(Result):
    """One net, one batch of B inputs; arrays are indexed [layer], layer 0 = input.

    Attributes:
        log_q: log mean square of the input and of every layer's pre-activations, shape (L + 1, B);
            −inf where a layer is dead.
        log_grad: the same of the gradient with respect to them, shape (L + 1, B).
        log_h: log mean square of what enters every weight layer, shape (L, B); −inf where the
            input is dead.
        cosines: of what enters every weight layer, shape (L, B, B); rows of dead inputs are zero.
        backward: (ratio, k2, k3, d) of every weight step, shape (L, 4). With λ the eigenvalues of
            the cosines of Δ and d the degrees of freedom, the law of the ratio under Gaussian
            weights is gain² · Σ_j λ_j χ²_j(d)/(B·d), and k2 = Σ λ²/B², k3 = Σ λ³/B³ give its
            cumulants. NaN where fan_in ≤ B leaves nothing to see.
        mirrors: for every activation step, forward and backward and for each unit: half the
            difference of the squares after the step at z and at −z, half their sum, and the square
            before the step (z forward, gradient of φ backward). Sums over the batch, each input's
            divided by its mean square before the step; where z is 0 it is its own image, and left
            out. One array for each run of neighbours of equal width n, shape (steps, 2, 3, n).
            Empty if they were not asked for.
        log2_scales: the power of two by which z, and the gradient that left the layer downwards,
            were multiplied where they stood, shape (2, L).
    """

    log_q: FloatArray
    log_grad: FloatArray
    log_h: FloatArray
    cosines: FloatArray
    backward: FloatArray
    mirrors: list[FloatArray]
    log2_scales: FloatArray


def steps_of_net(
    model: DeepMLP, x: Tensor, cotangent: Tensor, *, mirrored: bool = True
) -> NetSteps:
    """Run a net forward and backward on a batch and take the statistics of every step.

    Args:
        model: the net; neither its parameters nor their ``.grad`` are changed.
        x: inputs, shape (B, n_0).
        cotangent: gradient given at the output, shape (B, n_L), independent of the net.
        mirrored: whether the activations are run at −z too.

    Returns:
        The statistics of the L weight steps and the L − 1 activation steps.
    """
    with torch.enable_grad():
        entering, leaving = zip(*model.passes(x.detach().requires_grad_()), strict=True)
    gradients = torch.autograd.grad(leaving[-1], [*entering, *leaving], cotangent)
    depth = len(leaving)
    steps = [
        WeightStep(h, z, grad_h, grad_z, activation=activation)
        for h, z, grad_h, grad_z, activation in zip(
            entering,
            leaving,
            gradients[:depth],
            gradients[depth:],
            [*model.activations, None] if mirrored else [None] * depth,
            strict=True,
        )
    ]
    largest = max(z.numel() for z in leaving)
    return _collect(reversed(steps), chunk=max(1, TOGETHER // largest))


def steps_layer_by_layer(
    make_layer: Callable[[int], nn.Module],
    activations: Sequence[nn.Module],
    x: Tensor,
    cotangent: Tensor,
    *,
    homogeneous: bool = True,
    mirrored: bool = True,
) -> NetSteps:
    """The statistics of :func:`steps_of_net` for a net of which one layer at a time exists.

    Pre-activations are kept (depth × batch × width numbers), weights are not: ``make_layer(index)``
    is called for 0 … L − 1 and then for L − 1 … 0, and must give the same weights both times; it
    may overwrite the layer it gave before. Where the signal of a homogeneous net drifts off, it is
    multiplied by a power of two, which is exact, and the logarithms take it back: no depth
    overflows.

    Args:
        make_layer: gives the initialized weight layer of an index.
        activations: the L − 1 activation modules.
        x: inputs, shape (B, n_0).
        cotangent: gradient given at the output, shape (B, n_L).
        homogeneous: activations positively homogeneous and biases zero.
        mirrored: whether the activations are run at −z too.
    """
    steps = _streamed(make_layer, activations, x, cotangent, homogeneous, mirrored)
    return _collect(steps, chunk=1)


def _streamed(
    make_layer: Callable[[int], nn.Module],
    activations: Sequence[nn.Module],
    x: Tensor,
    cotangent: Tensor,
    homogeneous: bool,
    mirrored: bool,
) -> Iterator[WeightStep]:
    depth = len(activations) + 1
    leaving: list[Tensor] = []
    powers, log2_z, log2_grad = [0], [0], 0
    h = x.detach()
    with torch.no_grad():
        for index in range(depth):
            leaving.append(make_layer(index)(h))
            if index + 1 < depth:
                phi = activations[index](leaving[index])
                powers.append(_power_to_unit(phi) if homogeneous else 0)
                log2_z.append(log2_z[-1] + powers[-1])
                h = _times_power(phi, powers[-1])
    grad_z = cotangent
    for index in reversed(range(depth)):
        with torch.enable_grad():
            z = leaving[index - 1].requires_grad_() if index else x
            phi = activations[index - 1](z) if index else z
            h = _times_power(phi.detach(), powers[index]).requires_grad_()
            (grad_h,) = torch.autograd.grad(make_layer(index)(h), h, grad_z)
        after = activations[index] if mirrored and index + 1 < depth else None
        yield WeightStep(
            h.detach(), leaving.pop().detach(), grad_h, grad_z, log2_z[index], log2_grad, after
        )
        if index:
            (grad_z,) = torch.autograd.grad(phi, z, grad_h)
            leaving[-1] = z.detach()
            power = _power_to_unit(grad_z)
            grad_z, log2_grad = _times_power(grad_z, power), log2_grad + power


def _power_to_unit(values: Tensor) -> int:
    """The power of two that brings the peak to one; 0 while the peak is within 2^±16 of it."""
    peak = float(values.detach().abs().max())
    if peak == 0 or not math.isfinite(peak):
        return 0
    exponent = math.frexp(peak)[1]
    return -exponent if abs(exponent) > 16 else 0


def _times_power(values: Tensor, power: int) -> Tensor:
    return values * 2.0**power if power else values


@torch.no_grad()
def _collect(steps: Iterable[WeightStep], chunk: int) -> NetSteps:
    """Reduce steps, given from the last to the first, on their device; bring all home at once."""
    parts: list[Tensor] = []
    units: list[Tensor] = []
    scales: list[tuple[int, int]] = []
    above: WeightStep | None = None
    for group in _groups(steps, chunk):
        joined = above is not None and _shapes(above) == _shapes(group[0])
        signals = StepSignals.of([above, *group] if above is not None and joined else group)
        parts.append(weight_steps(signals.without_first() if joined else signals))
        if above is not None and not joined and group[0].activation is not None:
            units.append(
                mirrors([above, group[0]], StepSignals.of([above]), StepSignals.of(group[:1]))
            )
        if len(signals.steps) > 1 and group[-1].activation is not None:
            units.append(mirrors(signals.steps, signals.without_last(), signals.without_first()))
        scales += [(step.log2_z, step.log2_grad) for step in group]
        above = group[-1]
    if above is None:
        raise ValueError("the net has no weight layer.")
    ends = [log_mean_square(StepSignal.of([values]))[0] for values in (above.h, above.grad_h)]
    return _at_home(parts, units, torch.stack(ends), scales)


def _groups(steps: Iterable[WeightStep], chunk: int) -> Iterator[list[WeightStep]]:
    """Runs of steps of equal shapes, no longer than ``chunk``."""
    group: list[WeightStep] = []
    for step in steps:
        if group and (len(group) == chunk or _shapes(step) != _shapes(group[0])):
            yield group
            group = []
        group.append(step)
    if group:
        yield group


def _shapes(step: WeightStep) -> tuple[torch.Size, torch.Size]:
    return step.h.shape, step.z.shape


def _at_home(
    parts: list[Tensor], units: list[Tensor], ends: Tensor, scales: list[tuple[int, int]]
) -> NetSteps:
    packed = torch.cat([tensor.reshape(-1) for tensor in (ends, *parts, *units)]).cpu().numpy()
    batch = ends.shape[1]
    depth = len(scales)
    columns = 4 + 3 * batch + batch**2
    rows_end = 2 * batch + depth * columns
    # Steps came from the last layer to the first, so every listing is turned round here.
    rows = packed[2 * batch : rows_end].reshape(depth, columns)[::-1]
    powers = 2 * math.log(2) * np.array(scales[::-1], dtype=np.float64)
    widths = [tensor.shape[-1] for tensor in units for _ in tensor]
    runs = [(n, len(list(run))) for n, run in groupby(widths)]
    cuts = np.cumsum([6 * n * steps for n, steps in runs])[:-1]
    squares = np.split(packed[rows_end:], cuts) if runs else []
    log_q, log_grad, log_h = np.split(rows[:, 4 : 4 + 3 * batch], 3, axis=1)
    return NetSteps(
        log_q=np.vstack((packed[:batch], log_q - powers[:, :1])),
        log_grad=np.vstack((packed[batch : 2 * batch] - powers[0, 1], log_grad - powers[:, 1:])),
        log_h=log_h - powers[:, :1],
        cosines=rows[:, 4 + 3 * batch :].reshape(depth, batch, batch),
        backward=rows[:, :4],
        mirrors=[
            run.reshape(steps, 2, 3, n)[::-1]
            for run, (n, steps) in zip(reversed(squares), reversed(runs), strict=True)
        ],
        log2_scales=np.array(scales[::-1], dtype=np.float64).T,
    )
