"""What each weight step and each activation step of a fully connected net did to a batch.

Given what enters a layer, Gaussian weights leave exactly known laws behind. This room takes the
statistics those laws speak of, and knows nothing of gains or slopes:

* *forward weight step*: the rows of Z = HWᵀ are, over units, i.i.d. N(0, Var W · HHᵀ). The ratio
  mean z_b²/mean h_b², averaged over the batch, estimates gain² = fan_in·Var W.
* *backward weight step*: the forward pass saw W only on span(H), so WᵀΔ projected off span(H) is
  fresh Gaussian noise, independent of everything forward: a second, independent estimate.
* *activation step*: per unit, the squares before and after, forward (z, then φ(z)) and backward
  (gradient with respect to φ(z), then with respect to z).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sigprop.checks import FloatArray
from sigprop.nn.mlp import DeepMLP

CHUNK = 16
"""Layers of equal shape that are reduced together when all of them are in memory anyway."""


@dataclass(frozen=True)
class NetSteps:
    """One net, one batch of B inputs; arrays are indexed [layer], layer 0 = input.

    With R the correlation matrix of the batch that enters a step, λ its eigenvalues and d the
    degrees of freedom, the law of a ratio under Gaussian weights is
    gain² · Σ_j λ_j χ²_j(d) / (B·d); k2 = Σ λ²/B² and k3 = Σ λ³/B³ give its cumulants.

    Attributes:
        log_q: log mean square of the input and of every layer's pre-activations, shape (L + 1, B);
            −inf where a layer is dead.
        log_grad: the same of the gradient with respect to them, shape (L + 1, B).
        forward: (ratio, k2, k3, d) of every weight step from the forward pass, shape (L, 4); NaN
            where no input reached it alive.
        backward: the same from the backward pass; NaN also where fan_in ≤ B leaves nothing to see.
        unit_squares: for every activation step the squares (z, φ, gradient of φ, gradient of z) of
            each unit, shape (n_l, 4): sums over the batch, each input's divided by its mean square
            before the step (z forward, gradient of φ backward).
    """

    log_q: FloatArray
    log_grad: FloatArray
    forward: FloatArray
    backward: FloatArray
    unit_squares: list[FloatArray]


@dataclass(frozen=True)
class Step:
    """One weight step: z = Wh + b and grad_h = Wᵀ grad_z, of shapes (B, n_out) and (B, n_in).

    The net's own z is z·2^−log2_z and its own gradient is grad_z·2^−log2_grad.
    """

    h: Tensor
    z: Tensor
    grad_h: Tensor
    grad_z: Tensor
    log2_z: int = 0
    log2_grad: int = 0


def steps_of_net(model: DeepMLP, x: Tensor, cotangent: Tensor) -> NetSteps:
    """Run a net forward and backward on a batch and take the statistics of every step.

    Args:
        model: the net; neither its parameters nor their ``.grad`` are changed.
        x: inputs, shape (B, n_0).
        cotangent: gradient given at the output, shape (B, n_L), independent of the net.

    Returns:
        The statistics of the L weight steps and the L − 1 activation steps.
    """
    entering, leaving = [], []

    def keep(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        entering.append(inputs[0])
        leaving.append(output)

    handles = [layer.register_forward_hook(keep) for layer in model.layers]
    try:
        with torch.enable_grad():
            output = model(x.detach().requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    gradients = torch.autograd.grad(output, [*entering, *leaving], cotangent)
    depth = len(leaving)
    steps = [
        Step(h.detach(), z.detach(), grad_h, grad_z)
        for h, z, grad_h, grad_z in zip(
            entering, leaving, gradients[:depth], gradients[depth:], strict=True
        )
    ]
    return _collect(reversed(steps), chunk=CHUNK)


def steps_layer_by_layer(
    make_layer: Callable[[int], nn.Module],
    activations: Sequence[nn.Module],
    x: Tensor,
    cotangent: Tensor,
) -> NetSteps:
    """The statistics of :func:`steps_of_net` for a net of which one layer at a time exists.

    Pre-activations are kept (depth × batch × width numbers), weights are not: ``make_layer(index)``
    is called for 0 … L − 1 and then for L − 1 … 0, and must give the same weights both times; it
    may overwrite the layer it gave before. Where a signal drifts off, it is multiplied by a power
    of two, which is exact for a positively homogeneous net with zero biases, and the logarithms
    take it back: no depth overflows.

    Args:
        make_layer: gives the initialized weight layer of an index.
        activations: the L − 1 activation modules, positively homogeneous.
        x: inputs, shape (B, n_0).
        cotangent: gradient given at the output, shape (B, n_L).
    """
    return _collect(_streamed(make_layer, activations, x, cotangent), chunk=1)


def _streamed(
    make_layer: Callable[[int], nn.Module],
    activations: Sequence[nn.Module],
    x: Tensor,
    cotangent: Tensor,
) -> Iterator[Step]:
    depth = len(activations) + 1
    leaving: list[Tensor] = []
    powers, log2_z, log2_grad = [0], [0], 0
    h = x.detach()
    with torch.no_grad():
        for index in range(depth):
            leaving.append(make_layer(index)(h))
            if index + 1 < depth:
                phi = activations[index](leaving[index])
                powers.append(_power_to_unit(phi))
                log2_z.append(log2_z[-1] + powers[-1])
                h = _times_power(phi, powers[-1])
    grad_z = cotangent
    for index in reversed(range(depth)):
        with torch.enable_grad():
            z = leaving[index - 1].requires_grad_() if index else x
            phi = activations[index - 1](z) if index else z
            h = _times_power(phi.detach(), powers[index]).requires_grad_()
            (grad_h,) = torch.autograd.grad(make_layer(index)(h), h, grad_z)
        yield Step(h.detach(), leaving.pop(), grad_h, grad_z, log2_z[index], log2_grad)
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


def _collect(steps: Iterable[Step], chunk: int) -> NetSteps:
    """Reduce steps, given from the last to the first, on their device; bring all home at once."""
    parts: list[Tensor] = []
    units: list[Tensor] = []
    scales: list[tuple[int, int]] = []
    group: list[Step] = []
    above: Step | None = None
    for step in steps:
        if group and (len(group) == chunk or not _same_shape(step, group[0])):
            parts.append(_weight_steps(group))
            group = []
        group.append(step)
        scales.append((step.log2_z, step.log2_grad))
        if above is not None:
            units.append(_activation_step(step, above))
        above = step
    if above is None:
        raise ValueError("the net has no weight layer.")
    parts.append(_weight_steps(group))
    ends = torch.stack((_log_mean_square(above.h), _log_mean_square(above.grad_h)))
    return _at_home(parts, units, ends, scales)


def _same_shape(one: Step, other: Step) -> bool:
    return one.h.shape == other.h.shape and one.z.shape == other.z.shape


def _weight_steps(group: list[Step]) -> Tensor:
    """Rows of the two estimates (8 columns), then log mean squares of z and of its gradient."""
    stacks = [[getattr(step, name) for step in group] for name in ("h", "z", "grad_h", "grad_z")]
    h, z, grad_h, grad_z = (_working(torch.stack(stack)) for stack in stacks)
    h_size, z_size, grad_h_size, grad_z_size = (_size(values) for values in (h, z, grad_h, grad_z))
    batch, fan_in = h.shape[1:]
    fan_out = z.shape[-1]
    h_unit = _unit(h, h_size)
    forward = _estimate((z_size / h_size).square() * (fan_in / fan_out), h_unit, fan_out)
    fresh = fan_in - batch
    if fresh > 0:
        seen = (_unit(grad_h, grad_h_size) @ torch.linalg.qr(h_unit.mT).Q).double()
        unseen = 1 - seen.square().sum(-1)
        ratio = (grad_h_size / grad_z_size).square() * unseen * (fan_in / fresh)
        backward = _estimate(ratio, _unit(grad_z, grad_z_size), fresh)
    else:
        backward = torch.full_like(forward, torch.nan)
    logs = [2 * z_size.log() - math.log(fan_out), 2 * grad_z_size.log() - math.log(fan_out)]
    return torch.cat((forward, backward, *logs), dim=-1)


def _estimate(ratio: Tensor, unit: Tensor, degrees: int) -> Tensor:
    """Columns (ratio, k2, k3, degrees) over the inputs that enter alive, shape (layers, 4)."""
    correlation = (unit @ unit.mT).double()
    alive = torch.diagonal(correlation, dim1=-2, dim2=-1) > 0
    batch = alive.sum(-1)
    mean = torch.where(alive, ratio, 0.0).sum(-1) / batch
    k2 = correlation.square().sum((-2, -1)) / batch**2
    k3 = ((correlation @ correlation) * correlation).sum((-2, -1)) / batch**3
    return torch.stack((mean, k2, k3, torch.full_like(mean, degrees)), dim=-1)


def _activation_step(below: Step, above: Step) -> Tensor:
    """Per unit the squares (z, φ, gradient of φ, gradient of z), shape (n, 4)."""
    z, phi = _working(below.z), _working(above.h)
    grad_phi, grad_z = _working(above.grad_h), _working(below.grad_z)
    z_size, grad_size = _size(z), _size(grad_phi)
    roots = (
        _unit(z, z_size),
        _unit(phi, z_size * 2.0 ** (above.log2_z - below.log2_z)),
        _unit(grad_phi, grad_size),
        _unit(grad_z, grad_size * 2.0 ** (below.log2_grad - above.log2_grad)),
    )
    squares = [torch.linalg.vector_norm(root, dim=0).square() for root in roots]
    return torch.stack(squares, dim=-1).double() * z.shape[-1]


def _working(values: Tensor) -> Tensor:
    """At least float32: what is left after dividing by the float64 sizes needs no more."""
    return values.float() if values.dtype.itemsize < 4 else values


def _size(values: Tensor) -> Tensor:
    """Euclidean norm over units, in float64 whatever the dtype: squares cannot leave its range."""
    return torch.linalg.vector_norm(values, dim=-1, dtype=torch.float64)


def _unit(values: Tensor, size: Tensor) -> Tensor:
    """Values over a size per input; zero where the size is zero or not finite."""
    safe = torch.where((size > 0) & torch.isfinite(size), size, torch.inf)
    return values * (1 / safe).to(values.dtype).unsqueeze(-1)


def _log_mean_square(values: Tensor) -> Tensor:
    return 2 * _size(values).log() - math.log(values.shape[-1])


def _at_home(
    parts: list[Tensor], units: list[Tensor], ends: Tensor, scales: list[tuple[int, int]]
) -> NetSteps:
    packed = torch.cat([tensor.reshape(-1) for tensor in (ends, *parts, *units)]).cpu().numpy()
    batch = ends.shape[1]
    depth = len(scales)
    rows_end = 2 * batch + depth * (8 + 2 * batch)
    # Steps came from the last layer to the first, so every listing is turned round here.
    rows = packed[2 * batch : rows_end].reshape(depth, 8 + 2 * batch)[::-1]
    powers = 2 * math.log(2) * np.array(scales[::-1], dtype=np.float64)
    cuts = np.cumsum([tensor.numel() for tensor in units])[:-1]
    squares = np.split(packed[rows_end:], cuts) if units else []
    log_q, log_grad = np.split(rows[:, 8:], 2, axis=1)
    return NetSteps(
        log_q=np.vstack((packed[:batch], log_q - powers[:, :1])),
        log_grad=np.vstack((packed[batch : 2 * batch] - powers[0, 1], log_grad - powers[:, 1:])),
        forward=rows[:, :4],
        backward=rows[:, 4:8],
        unit_squares=[unit.reshape(-1, 4) for unit in reversed(squares)],
    )
