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
from itertools import groupby, pairwise

import numpy as np
import torch
from torch import Tensor, nn

from sigprop.checks import FloatArray
from sigprop.nn.mlp import DeepMLP
from sigprop.results import Result

TOGETHER = 2**17
"""Numbers of layers of equal shape that are reduced in one call when all are in memory anyway."""
SQUARABLE = {torch.float32: 40, torch.float64: 400}
"""Powers of two by which a size may differ from one for its square to keep all digits."""


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
        mirrors: for every activation step, forward and backward and for each unit, shape
            (2, 3, n_l): half the difference of the squares after the step at z and at −z, half
            their sum, and the square before the step (z forward, gradient of φ backward). Sums
            over the batch, each input's divided by its mean square before the step; where z is 0
            it is its own image, and left out. Empty if they were not asked for.
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


@dataclass(frozen=True)
class WeightStep:
    """One weight step: z = Wh + b and grad_h = Wᵀ grad_z, of shapes (B, n_out) and (B, n_in).

    The net's own z is z·2^−log2_z and its own gradient is grad_z·2^−log2_grad. ``activation`` is
    what z enters, if that step is asked for.
    """

    h: Tensor
    z: Tensor
    grad_h: Tensor
    grad_z: Tensor
    log2_z: int = 0
    log2_grad: int = 0
    activation: nn.Module | None = None


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
        WeightStep(h.detach(), z.detach(), grad_h, grad_z, activation=activation)
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


def _collect(steps: Iterable[WeightStep], chunk: int) -> NetSteps:
    """Reduce steps, given from the last to the first, on their device; bring all home at once."""
    parts: list[Tensor] = []
    units: list[Tensor] = []
    scales: list[tuple[int, int]] = []
    above: WeightStep | None = None
    for group in _groups(steps, chunk):
        joined = above is not None and _shapes(above) == _shapes(group[0])
        signals = _Signals.of([above, *group] if above is not None and joined else group)
        parts.append(_weight_steps(signals.without_first() if joined else signals))
        if above is not None and not joined and group[0].activation is not None:
            units.extend(_mirrors([above, group[0]], _Signals.of([above]), _Signals.of(group[:1])))
        if len(signals.steps) > 1 and group[-1].activation is not None:
            units.extend(_mirrors(signals.steps, signals.without_last(), signals.without_first()))
        scales += [(step.log2_z, step.log2_grad) for step in group]
        above = group[-1]
    if above is None:
        raise ValueError("the net has no weight layer.")
    ends = [_log_mean_square(_Signal.of([values]))[0] for values in (above.h, above.grad_h)]
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


@dataclass(frozen=True)
class _Signal:
    """The signals of some layers, and rows whose squares are in range.

    Attributes:
        given: as they are, shape (layers, B, n).
        rows: in the format in which squares are summed; divided by their peaks where their squares
            leave it.
        length: of the rows, in float64, shape (layers, B).
        size: of the rows as they were.
        scaled: whether the rows were divided.
    """

    given: Tensor
    rows: Tensor
    length: Tensor
    size: Tensor
    scaled: bool = False

    @classmethod
    def of(cls, tensors: list[Tensor]) -> _Signal:
        given = torch.stack(tensors)
        rows = given.to(summed_in(given.dtype))
        length = torch.linalg.vector_norm(rows, dim=-1)
        if _squarable(length):
            length = length.double()
            return cls(given, rows, length, length)
        peak = rows.abs().amax(-1)
        rows = rows / torch.where(peak > 0, peak, 1)[..., None]
        length = torch.linalg.vector_norm(rows, dim=-1).double()
        return cls(given, rows, length, peak.double() * length, scaled=True)

    def part(self, layers: slice) -> _Signal:
        """Those of some of the layers, not copied."""
        return _Signal(
            self.given[layers],
            self.rows[layers],
            self.length[layers],
            self.size[layers],
            self.scaled,
        )

    def cosines(self) -> Tensor:
        """Of all pairs of rows, shape (layers, B, B); 0 where a row is dead."""
        share = torch.where(self.length > 0, 1 / self.length, 0.0)
        return (self.rows @ self.rows.mT).double().mul_(share[:, :, None] * share[:, None])


def _squarable(sizes: Tensor) -> bool:
    """Whether all are so far from the ends of their format that squares keep all digits."""
    least, most = sizes.aminmax()
    bits = SQUARABLE[sizes.dtype]
    return 2.0**-bits < float(least) and float(most) < 2.0**bits


@dataclass(frozen=True)
class _Signals:
    """The four signals of a group of steps, shapes (layers, B, n)."""

    steps: Sequence[WeightStep]
    h: _Signal
    z: _Signal
    grad_h: _Signal
    grad_z: _Signal

    @classmethod
    def of(cls, group: Sequence[WeightStep]) -> _Signals:
        names = ("h", "z", "grad_h", "grad_z")
        return cls(group, *(_Signal.of([getattr(step, name) for step in group]) for name in names))

    def without_first(self) -> _Signals:
        """Those of all layers but the first."""
        return self._part(slice(1, None))

    def without_last(self) -> _Signals:
        """Those of all layers but the last."""
        return self._part(slice(None, -1))

    def _part(self, layers: slice) -> _Signals:
        signals = (self.h, self.z, self.grad_h, self.grad_z)
        return _Signals(self.steps[layers], *(signal.part(layers) for signal in signals))


def _weight_steps(steps: _Signals) -> Tensor:
    """Rows of the backward estimate, the log mean squares of z, its gradient and h, the cosines."""
    batch, fan_in = steps.h.rows.shape[1:]
    fresh = fan_in - batch
    if fresh > 0:
        seen = (steps.grad_h.rows @ torch.linalg.qr(steps.h.rows.mT).Q).double().square().sum(-1)
        unseen = steps.grad_h.length.square() - seen
        size = steps.grad_h.size / steps.grad_h.length / steps.grad_z.size
        size = torch.where(steps.grad_h.length > 0, size, 0.0)
        backward = _estimate(size.square() * unseen * (fan_in / fresh), steps.grad_z, fresh)
    else:
        backward = torch.full((len(steps.h.rows), 4), torch.nan).to(steps.h.size)
    logs = (_log_mean_square(steps.z), _log_mean_square(steps.grad_z), _log_mean_square(steps.h))
    return torch.cat((backward, *logs, steps.h.cosines().flatten(1)), dim=-1)


def _estimate(ratio: Tensor, below: _Signal, degrees: int) -> Tensor:
    """Columns (ratio, k2, k3, degrees) over the rows that are not dead, shape (layers, 4)."""
    correlation, alive = below.cosines(), below.length > 0
    batch = alive.sum(-1)
    mean = torch.where(alive, ratio, 0.0).sum(-1) / batch
    k2 = correlation.square().sum((-2, -1)) / batch**2
    k3 = ((correlation @ correlation) * correlation).sum((-2, -1)) / batch**3
    return torch.stack((mean, k2, k3, torch.full_like(mean, degrees)), dim=-1)


def summed_in(dtype: torch.dtype) -> torch.dtype:
    """The format in which the squares of ``NetSteps.mirrors`` are summed."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def _mirrors(steps: Sequence[WeightStep], above: _Signals, below: _Signals) -> Tensor:
    """Activation steps between neighbours of a run of steps, shape (len(steps) − 1, 2, 3, n)."""
    phi, grad = _at_minus_z(steps[1:], below.z.given, above.grad_h.given)
    pairs = list(pairwise(steps))
    nonzero = None if float(below.z.given.abs().amin()) else below.z.given != 0
    forward = _mirror(
        below.z, above.h, phi, [below.log2_z - above.log2_z for above, below in pairs]
    )
    backward = _mirror(
        above.grad_h,
        below.grad_z,
        grad,
        [above.log2_grad - below.log2_grad for above, below in pairs],
        nonzero,
    )
    return torch.stack((forward, backward), dim=1).double()


def _at_minus_z(steps: Sequence[WeightStep], z: Tensor, grad_phi: Tensor) -> tuple[Tensor, Tensor]:
    """φ(−z), and the gradient with respect to −z, as the modules compute them."""
    images, phi = [], []
    with torch.enable_grad():
        first = 0
        for activation, run in groupby(step.activation for step in steps):
            assert activation is not None
            last = first + len(list(run))  # layers of one module at once
            images.append((-z[first:last]).requires_grad_())
            phi.append(activation(images[-1].flatten(0, 1)).view_as(images[-1]))
            first = last
    grads = torch.autograd.grad(phi, images, torch.split(grad_phi, [*map(len, images)]))
    if len(phi) == 1:
        return phi[0].detach(), grads[0]
    return torch.cat([values.detach() for values in phi]), torch.cat(grads)


def _mirror(
    before: _Signal,
    after: _Signal,
    image: Tensor,
    powers: Sequence[int],
    counted: Tensor | None = None,
) -> Tensor:
    """Rows of ``NetSteps.mirrors`` for one direction, shape (steps, 3, n).

    Differences of neighbours are exact, and so are powers of two: slopes one rounding apart stay
    apart, in single precision too.
    """
    dtype = summed_in(image.dtype)
    there = image.to(dtype)
    start, end = before.given.to(dtype), after.given.to(dtype)
    moved = before.scaled or any(powers)
    if moved:
        start, end, there = _in_range(start, end, there, powers)
    difference = (end - there).mul_(end + there)
    both = (end * end).addcmul_(there, there)
    square = start * start
    if counted is not None:
        both, square = both.mul_(counted), square.mul_(counted)
    if moved or counted is not None:
        mean = square.mean(-1)
    else:
        mean = (before.size.square() / square.shape[-1]).to(dtype)
    share = torch.where(mean > 0, 1 / mean, 0.0)[:, None]
    return torch.cat((share @ difference / 2, share @ both / 2, share @ square), dim=1)


def _in_range(
    start: Tensor, end: Tensor, there: Tensor, powers: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """What is to be squared, multiplied by powers of two that bring each row near one."""
    most = 2 * SQUARABLE[start.dtype]
    exponent = torch.frexp(start.abs().amax(-1, keepdim=True))[1].clamp(-most, most)
    shift = torch.tensor(powers, device=start.device)[:, None, None] - exponent
    scale, other = (torch.exp2(k.clamp(-most, most).to(start)) for k in (-exponent, shift))
    return start * scale, end * other, there * scale


def _log_mean_square(signal: _Signal) -> Tensor:
    return 2 * signal.size.log() - math.log(signal.rows.shape[-1])


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
    cuts = np.cumsum([tensor.numel() for tensor in units])[:-1]
    squares = np.split(packed[rows_end:], cuts) if units else []
    log_q, log_grad, log_h = np.split(rows[:, 4 : 4 + 3 * batch], 3, axis=1)
    return NetSteps(
        log_q=np.vstack((packed[:batch], log_q - powers[:, :1])),
        log_grad=np.vstack((packed[batch : 2 * batch] - powers[0, 1], log_grad - powers[:, 1:])),
        log_h=log_h - powers[:, :1],
        cosines=rows[:, 4 + 3 * batch :].reshape(depth, batch, batch),
        backward=rows[:, :4],
        mirrors=[unit.reshape(2, 3, -1) for unit in reversed(squares)],
        log2_scales=np.array(scales[::-1], dtype=np.float64).T,
    )
