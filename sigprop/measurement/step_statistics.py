"""The statistics of a weight step and of an activation step, of runs of layers side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import torch
from torch import Tensor, nn

SQUARABLE = {torch.float32: 40, torch.float64: 400}
"""Powers of two by which a size may differ from one for its square to keep all digits."""


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


@dataclass(frozen=True)
class StepSignal:
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
    def of(cls, tensors: list[Tensor]) -> StepSignal:
        """Those of signals of one shape, side by side."""
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

    def part(self, layers: slice) -> StepSignal:
        """Those of some of the layers, not copied."""
        return StepSignal(
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
class StepSignals:
    """The four signals of a group of steps, shapes (layers, B, n)."""

    steps: Sequence[WeightStep]
    h: StepSignal
    z: StepSignal
    grad_h: StepSignal
    grad_z: StepSignal

    @classmethod
    def of(cls, group: Sequence[WeightStep]) -> StepSignals:
        """Those of steps of equal shapes."""
        names = ("h", "z", "grad_h", "grad_z")
        return cls(
            group, *(StepSignal.of([getattr(step, name) for step in group]) for name in names)
        )

    def without_first(self) -> StepSignals:
        """Those of all layers but the first."""
        return self._part(slice(1, None))

    def without_last(self) -> StepSignals:
        """Those of all layers but the last."""
        return self._part(slice(None, -1))

    def _part(self, layers: slice) -> StepSignals:
        signals = (self.h, self.z, self.grad_h, self.grad_z)
        return StepSignals(self.steps[layers], *(signal.part(layers) for signal in signals))


def weight_steps(steps: StepSignals) -> Tensor:
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
    logs = (log_mean_square(steps.z), log_mean_square(steps.grad_z), log_mean_square(steps.h))
    return torch.cat((backward, *logs, steps.h.cosines().flatten(1)), dim=-1)


def _estimate(ratio: Tensor, below: StepSignal, degrees: int) -> Tensor:
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


def mirrors(steps: Sequence[WeightStep], above: StepSignals, below: StepSignals) -> Tensor:
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
    before: StepSignal,
    after: StepSignal,
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


def log_mean_square(signal: StepSignal) -> Tensor:
    """Log mean square of every row, at any size."""
    return 2 * signal.size.log() - math.log(signal.rows.shape[-1])
