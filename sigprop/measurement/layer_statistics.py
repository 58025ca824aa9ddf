"""What is gathered of the layers that were observed, on its device until it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sigprop.measurement import statistics
from sigprop.measurement.axes import Axes
from sigprop.measurement.backward import BackwardPasses

FIELDS = (
    *statistics.SIGNAL_FIELDS,
    *("silent", "dead", "oldest"),
    *(f"grad_{name}" for name in statistics.GRADIENT_FIELDS),
    *("slope_size", "slope_grad", "slope_grad_min", "slope_grad_max"),
    *("weight_squares", "weight_means"),
)

_UNSEEN = torch._C.DisableTorchFunction
"""Statistics are not to be seen by another observer."""

Token = tuple[str, str]
"""Where a signal comes from: ("input", ""), ("layer", name), ("activation", name) or
("normalized", ""), whatever it was before."""


@dataclass(frozen=True)
class SlopeStatistics:
    """The slopes of one activation call: one fixed number, or a PReLU's with their statistics."""

    fixed: float | None = None
    vector: Tensor | None = None
    zero: Tensor | None = None
    count: int = 1
    learns: bool = False

    @classmethod
    def of(cls, slopes: float | Tensor) -> SlopeStatistics:
        """Read the slopes as they are now."""
        if isinstance(slopes, float):
            return cls(fixed=slopes)
        with _UNSEEN():
            vector = statistics.slopes(slopes)
            zero = slopes.detach().flatten() == 0
        return cls(None, vector, zero, slopes.numel(), slopes.requires_grad)


@dataclass(frozen=True)
class Source:
    """Where the signal that enters a layer comes from.

    Attributes:
        tokens: what made it; empty: not known.
        square: by what its second moment was multiplied since, by constant factors and by dropout;
            None: not known, or branches disagree.
    """

    tokens: frozenset[Token]
    square: float | None = 1.0


@dataclass
class LayerStatistics:
    """One layer: a weight's output, what enters an activation, or both in one.

    It may be met several times (gradient accumulation, replicas): everything adds up.
    """

    name: str
    kind: str
    activation: str = ""
    activation_name: str = ""
    dies: bool | None = None
    slope_a_unit: bool = True
    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    passes: int = 0
    entries: int = 0
    weight_entries: int = 0
    fan_in: float = 0.0
    parameters: tuple[str, ...] = ()
    units: int = 0
    forward: Tensor | None = None
    fired: Tensor | None = None
    grads: dict[int, tuple[Tensor, int]] = field(default_factory=dict)
    slope_grads: dict[int, tuple[Tensor, int]] = field(default_factory=dict)
    weight: tuple[Tensor, Tensor] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def see_signal(self, z: Tensor, axes: Axes) -> None:
        """Take pre-activations."""
        with _UNSEEN():
            vector, fired = statistics.signal(z, axes)
        with self._lock:
            self.passes += 1
            self.entries += z.numel()
            self.shape, self.dtype = tuple(z.shape), z.dtype
            if self.fired is not None and self.fired.shape == fired.shape:
                fired = self.fired | fired.to(self.fired.device)
            self.forward, self.fired, self.units = _plus(self.forward, vector), fired, len(fired)

    def see_gradient(self, delta: Tensor, number: int) -> None:
        """Take the gradient of the pre-activations, of one run of autograd."""
        with _UNSEEN():
            self._add(self.grads, number, statistics.gradient(delta), delta.numel())

    def see_slope_gradient(self, z: Tensor, delta: Tensor, channels: int, number: int) -> None:
        """Take the gradient of a PReLU's output, with what entered it."""
        with _UNSEEN():
            size, grads = statistics.slope_gradient(z, delta, channels)
            vector = torch.cat((size.reshape(1), grads))
            self._add(self.slope_grads, number, vector, delta.numel())

    def see_weight(self, weight: Tensor, fan_in: float) -> None:
        """Take the weight in use; it is the same until the statistics are asked for."""
        if self.weight is not None:
            return
        with _UNSEEN():
            squares = statistics.sum_of_squares(weight)
            means = torch.full_like(squares, torch.nan)
            if not isinstance(weight, nn.Parameter):  # computed, and perhaps centred
                means = weight.detach().flatten(1).mean(1, dtype=torch.float64).square().mean()
        with self._lock:
            self.weight = squares, means
            self.weight_entries, self.fan_in = weight.numel(), fan_in

    def now(self) -> LayerStatistics:
        """A copy that no other thread adds to."""
        with self._lock:
            still = copy(self)
            still.grads, still.slope_grads = dict(self.grads), dict(self.slope_grads)
        return still

    def gradient(self, runs: BackwardPasses) -> tuple[Tensor | None, int]:
        """The statistics of the gradient, of the runs that count, and its entries."""
        return _together(self.grads, runs)

    def slope_gradient(self, runs: BackwardPasses) -> tuple[Tensor | None, int]:
        """Σ |δ z 1{z<0}| with the gradient of each slope behind it, and the entries of δ."""
        return _together(self.slope_grads, runs)

    def packed(
        self,
        runs: BackwardPasses,
        slopes: SlopeStatistics | None = None,
        last_fired: Tensor | None = None,
        cutoff: int = 0,
    ) -> Tensor:
        """The :data:`FIELDS` as one float64 vector on the device; NaN for what was not seen.

        Args:
            runs: of autograd.
            slopes: of the activation here.
            last_fired: step at which each unit fired last, −1: never; shape (units,). None: only
                this pass counts.
            cutoff: a unit that has not fired since this step, this step included, is dead.
        """
        assert self.forward is not None and self.fired is not None
        none = torch.full((), torch.nan, dtype=torch.float64, device=self.forward.device)
        if last_fired is None:
            last_fired = self.fired.long() - 1
        dead = none
        if self.dies is not None:
            dying = (last_fired < cutoff) & self._flat(slopes, last_fired)
            dead = torch.count_nonzero(dying).double()
        grad, _ = self.gradient(runs)
        learnt, _ = self.slope_gradient(runs)
        slope_fields = none.expand(4)
        if learnt is not None:
            low, high = learnt[1:].abs().aminmax()
            slope_fields = torch.stack((learnt[0], learnt[1:].mean(), low, high))
        silent = (torch.count_nonzero(~self.fired).double(), dead, last_fired.min().double())
        parts = (
            self.forward,
            torch.stack(silent),
            none.expand(len(statistics.GRADIENT_FIELDS)) if grad is None else grad,
            slope_fields,
            none.expand(2) if self.weight is None else torch.stack(self.weight),
        )
        try:
            return torch.cat(parts)
        except RuntimeError:  # some are on another device
            return torch.cat([part.to(none.device) for part in parts])

    def _add(
        self, table: dict[int, tuple[Tensor, int]], number: int, vector: Tensor, entries: int
    ) -> None:
        with self._lock:
            before, count = table.get(number, (None, 0))
            table[number] = _plus(before, vector), count + entries

    def _flat(self, slopes: SlopeStatistics | None, last_fired: Tensor) -> Tensor:
        """Which units get no gradient while they are silent."""
        zero = None if slopes is None else slopes.zero
        if zero is None:
            return torch.full_like(last_fired, bool(self.dies), dtype=torch.bool)
        zero = zero.to(last_fired.device)
        by_unit = len(zero) == 1 or (self.slope_a_unit and len(zero) == self.units)
        return zero if by_unit else zero.all()


class Observation:
    """All layers that were observed together, and how they hang together.

    Attributes:
        number: of the step, from 0.
        first_scale: what the loss is multiplied by when the step starts.
        layers: by name, in the order of the data.
        slopes: of every activation call, watched or not; None outside the leaky family.
        feeds: for each layer call, where its input comes from; None: not known.
        heads: for each layer call, the activations its output enters; "": another layer.
        normalized: layer calls whose output is normalized, at once or after an activation of the
            leaky family, which lets scale through.
        passed_over: kinds of tensors on which layers were called that were not looked at.
        runs: of autograd.
    """

    def __init__(self, number: int = 0, first_scale: float | Tensor = 1.0) -> None:
        self.number, self.first_scale = number, first_scale
        self.layers: dict[str, LayerStatistics] = {}
        self.slopes: dict[str, SlopeStatistics | None] = {}
        self.feeds: dict[str, Source | None] = {}
        self.heads: dict[str, set[str]] = {}
        self.normalized: set[str] = set()
        self.passed_over: set[str] = set()
        self.runs = BackwardPasses()
        self.handles: list[RemovableHandle] = []
        self._lock = threading.Lock()

    def layer(self, name: str, kind: str) -> LayerStatistics:
        """The statistics of a name; new ones at its first call."""
        with self._lock:
            return self.layers.setdefault(name, LayerStatistics(name, kind))

    def see_slopes(self, name: str, slopes: float | Tensor | None) -> SlopeStatistics | None:
        """The slopes of an activation call; they are the same all step long."""
        if name not in self.slopes:
            self.slopes[name] = None if slopes is None else SlopeStatistics.of(slopes)
        return self.slopes[name]

    def normalize(self, source: Source) -> Source:
        """Where a signal comes from once it is normalized: no longer from an activation."""
        tokens = source.tokens
        through = {name for kind, name in tokens if kind == "activation" and self.slopes[name]}
        self.normalized |= {name for kind, name in tokens if kind == "layer"}
        self.normalized |= {layer for layer, heads in self.heads.items() if heads & through}
        return Source(
            frozenset(
                ("normalized", "") if kind == "activation" else (kind, name)
                for kind, name in tokens
            )
        )

    def now(self) -> Observation:
        """What has been seen until now: a copy that other threads do not change."""
        still = copy(self)
        still.runs = copy(self.runs)
        still.runs.reached = set(self.runs.reached)
        with self._lock:
            layers = dict(self.layers)
        still.layers = {name: layer.now() for name, layer in layers.items()}
        still.slopes, still.feeds = dict(self.slopes), dict(self.feeds)
        still.heads = {name: set(heads) for name, heads in dict(self.heads).items()}
        still.normalized, still.passed_over = set(self.normalized), set(self.passed_over)
        return still

    def forget_gradients(self) -> None:
        """Of runs of autograd within the forward pass, or within the loss."""
        for layer in self.layers.values():
            layer.grads.clear()

    def close(self) -> None:
        """Take the hooks off tensors and parameters that may outlive the observation."""
        self.runs.close()
        for handle in self.handles:
            handle.remove()
        self.handles.clear()


def to_host(vectors: Iterable[Tensor]) -> list[list[float]]:
    """Bring vectors home in one synchronisation."""
    vectors = list(vectors)
    device = vectors[0].device
    flat = torch.cat([vector.to(device) for vector in vectors]).cpu().tolist()
    ends = [0]
    for vector in vectors:
        ends.append(ends[-1] + vector.numel())
    return [flat[start:end] for start, end in pairwise(ends)]


def _together(
    table: dict[int, tuple[Tensor, int]], runs: BackwardPasses
) -> tuple[Tensor | None, int]:
    total, entries = None, 0
    for number, (vector, count) in table.items():
        if runs.counts(number):
            total, entries = _plus(total, vector), entries + count
    return total, entries


def _plus(total: Tensor | None, more: Tensor) -> Tensor:
    if total is None or total.shape != more.shape:
        return more
    return total + more.to(total.device)
