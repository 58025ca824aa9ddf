"""What is gathered at one place of a model over one step, on its device until the step ends."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from sigprop.monitoring import reductions

FIELDS = (
    "squares", "negative", "nonfinite", "silent", "dead", "oldest", "grad_squares",
    "grad_nonfinite", "slope_size", "slope_grad", "slope_grad_min", "slope_grad_max",
    "weight_squares",
)  # fmt: skip
SLOPE_FIELDS = reductions.SLOPE_FIELDS


@dataclass(frozen=True)
class Slopes:
    """The slopes of one activation call: one fixed number, or a PReLU's with their statistics."""

    fixed: float | None = None
    vector: Tensor | None = None
    zero: Tensor | None = None
    count: int = 1
    learns: bool = False

    @classmethod
    def of(cls, slopes: float | Tensor) -> Slopes:
        """Read the slopes as they are now."""
        if isinstance(slopes, float):
            return cls(fixed=slopes)
        vector = reductions.slopes(slopes)
        zero = slopes.detach().flatten() == 0
        return cls(None, vector, zero, slopes.numel(), slopes.requires_grad)


@dataclass
class Site:
    """One place: a weight layer's output, what enters an activation, or both in one.

    A step may meet it several times (gradient accumulation, replicas): everything adds up.
    """

    name: str
    kind: str
    activation: str = ""
    activation_name: str = ""
    dies: bool | None = None
    passes: int = 0
    entries: int = 0
    grad_entries: int = 0
    slope_entries: int = 0
    weight_entries: int = 0
    fan_in: float = 0.0
    units: int = 0
    forward: Tensor | None = None
    fired: Tensor | None = None
    grad: Tensor | None = None
    slope_size: Tensor | None = None
    slope_grads: Tensor | None = None
    weight: Tensor | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def see_signal(self, z: Tensor, axis: int) -> None:
        """Take pre-activations."""
        vector, fired = reductions.signal(z, axis)
        with self._lock:
            self.passes += 1
            self.entries += z.numel()
            if self.fired is not None and self.fired.shape == fired.shape:
                fired = self.fired | fired.to(self.fired.device)
            self.forward, self.fired, self.units = _plus(self.forward, vector), fired, len(fired)

    def see_gradient(self, delta: Tensor) -> None:
        """Take the gradient of the pre-activations."""
        vector = reductions.gradient(delta)
        with self._lock:
            self.grad_entries += delta.numel()
            self.grad = _plus(self.grad, vector)

    def see_slope_gradient(self, z: Tensor, delta: Tensor, channels: int) -> None:
        """Take the gradient of a PReLU's output, with what entered it."""
        size, grads = reductions.slope_gradient(z, delta, channels)
        with self._lock:
            self.slope_entries += delta.numel()
            self.slope_size = _plus(self.slope_size, size)
            self.slope_grads = _plus(self.slope_grads, grads)

    def see_weight(self, weight: Tensor, fan_in: float) -> None:
        """Take the weight in use; it is the same all step long."""
        if self.weight is None:
            self.weight = reductions.sum_of_squares(weight)
            self.weight_entries, self.fan_in = weight.numel(), fan_in

    def packed(
        self, slopes: Slopes | None, last_fired: Tensor, silent: Tensor, cutoff: int
    ) -> Tensor:
        """The :data:`FIELDS` as one float64 vector on the device; NaN for what was not seen.

        Args:
            slopes: of the activation here.
            last_fired: step at which each unit fired last, −1: never; shape (units,).
            silent: which units did not fire in this step.
            cutoff: a unit that has not fired since this step, this step included, is dead.
        """
        assert self.forward is not None
        none = torch.full((), torch.nan, dtype=torch.float64, device=self.forward.device)
        dead = none
        if self.dies is not None:
            dying = (last_fired < cutoff) & self._flat(slopes, last_fired)
            dead = torch.count_nonzero(dying).double()
        grad = (none, none) if self.grad is None else self.grad.unbind()
        slope_grads = (none, none, none)
        if self.slope_grads is not None:
            size = self.slope_grads.abs()
            slope_grads = (self.slope_grads.mean(), size.min(), size.max())
        parts = (
            *self.forward.unbind(),
            torch.count_nonzero(silent).double(),
            dead,
            last_fired.min().double(),
            *grad,
            none if self.slope_size is None else self.slope_size,
            *slope_grads,
            none if self.weight is None else self.weight,
        )
        return torch.stack([part.to(none.device) for part in parts])

    def _flat(self, slopes: Slopes | None, last_fired: Tensor) -> Tensor:
        """Which units get no gradient while they are silent."""
        zero = None if slopes is None else slopes.zero
        if zero is None:
            return torch.full_like(last_fired, bool(self.dies), dtype=torch.bool)
        zero = zero.to(last_fired.device)
        return zero if len(zero) in (1, self.units) else zero.all()


class Step:
    """All sites of one step, and how they hang together.

    Attributes:
        number: of the step, from 0.
        first_scale: what the loss is multiplied by when the step starts.
        sites: by name, in the order of the data.
        slopes: of every activation call, watched or not; None outside the leaky family.
        feeds: for each layer call, where its input comes from; None: not known.
        heads: for each layer call, the activations its output enters.
        normalized: layer calls whose output is normalized, at once or after an activation of the
            leaky family, which lets scale through.
        passed_over: kinds of tensors on which layers were called that were not looked at.
    """

    def __init__(self, number: int, first_scale: float | Tensor) -> None:
        self.number, self.first_scale = number, first_scale
        self.sites: dict[str, Site] = {}
        self.slopes: dict[str, Slopes | None] = {}
        self.feeds: dict[str, frozenset[Token] | None] = {}
        self.heads: dict[str, set[str]] = {}
        self.normalized: set[str] = set()
        self.passed_over: set[str] = set()
        self.handles: list[RemovableHandle] = []
        self._lock = threading.Lock()

    def site(self, name: str, kind: str) -> Site:
        """The site of a name; a new one at its first call."""
        with self._lock:
            return self.sites.setdefault(name, Site(name, kind))

    def see_slopes(self, name: str, slopes: float | Tensor | None) -> Slopes | None:
        """The slopes of an activation call; they are the same all step long."""
        if name not in self.slopes:
            self.slopes[name] = None if slopes is None else Slopes.of(slopes)
        return self.slopes[name]

    def normalize(self, tokens: frozenset[Token]) -> frozenset[Token]:
        """Where a signal comes from once it is normalized: no longer from an activation."""
        through = {name for source, name in tokens if source == "activation" and self.slopes[name]}
        self.normalized |= {name for source, name in tokens if source == "layer"}
        self.normalized |= {layer for layer, heads in self.heads.items() if heads & through}
        return frozenset(
            ("normalized", "") if source == "activation" else (source, name)
            for source, name in tokens
        )

    def close(self) -> None:
        """Take the hooks off tensors that may outlive the step."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()


Token = tuple[str, str]
"""Where a signal comes from: ("input", ""), ("layer", name), ("activation", name) or
("normalized", ""), whatever it was before."""


def to_host(vectors: Iterable[Tensor]) -> list[list[float]]:
    """Bring vectors home in one synchronisation."""
    vectors = list(vectors)
    device = vectors[0].device
    flat = torch.cat([vector.to(device) for vector in vectors]).cpu().tolist()
    ends = [0]
    for vector in vectors:
        ends.append(ends[-1] + vector.numel())
    return [flat[start:end] for start, end in pairwise(ends)]


def _plus(total: Tensor | None, more: Tensor) -> Tensor:
    if total is None or total.shape != more.shape:
        return more
    return total + more.to(total.device)
