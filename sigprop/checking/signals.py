"""What rules ask of signals beside their moments, seen in the run that measures the nodes.

Range, entries, ranges of single units, how alike samples are, how sharp attention is. Large tensors
are seen by some of their entries, drawn once for each size; extremes and units by all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigprop.checks import FloatArray
from sigprop.measurement import axes as unit_axes
from sigprop.measurement.axes import LAST, Axes
from sigprop.reading.steps import Step
from sigprop.reading.used import Reading
from sigprop.reading.witness import Witness

ENTRIES = 2048
"""Entries of a tensor that are kept."""
SAMPLES, FEATURES = 16, 4096
"""Samples, and entries of each, that are compared."""
ROWS = 64
"""Rows of attention that are looked at, of each head of :data:`HEADS` samples and heads."""
HEADS = 16
MASKED, LOST = -9e3, -1e30
"""A logit below the first is masked, where others are of ordinary size; else below the second."""

SMALLEST_NORMAL: Mapping[str, float] = {
    "float16": torch.finfo(torch.float16).tiny,
    "bfloat16": torch.finfo(torch.bfloat16).tiny,
    "float8_e4m3": 2.0**-6,
    "float8_e5m2": 2.0**-14,
}
"""Below it a number has fewer digits than the format has, or none."""
LARGEST: Mapping[str, float] = {
    "float16": torch.finfo(torch.float16).max,
    "bfloat16": torch.finfo(torch.bfloat16).max,
    "float8_e4m3": 448.0,
    "float8_e5m2": 57344.0,
}


@dataclass(frozen=True, eq=False)
class SignalStatistics:
    """What leaves one node.

    Attributes:
        dtype: in use: ``"float32"``.
        entries: some of its entries that are finite, in float64.
        zeros: share of zeros among those.
        nonfinite: how many of all entries are NaN or infinite.
        low: the smallest entry.
        high: the largest.
        unit_low: the smallest entry of each unit; None where units are not known.
        unit_high: the largest, likewise.
        decorrelation: 1 − c, c the mean cosine of two samples; None for one, or where the first
            axis does not count samples.
        entropy: of attention: mean entropy of a row over log of the places it may look at; None of
            other nodes.
        places: that a row of attention may look at, on average; 0 of other nodes.
    """

    dtype: str
    entries: FloatArray
    zeros: float
    nonfinite: int
    low: float
    high: float
    unit_low: FloatArray | None = None
    unit_high: FloatArray | None = None
    decorrelation: float | None = None
    entropy: float | None = None
    places: float = 0.0

    def below(self, smallest: float) -> float:
        """The share of entries that are not 0 and smaller in size than a number."""
        if not self.entries.size:
            return 0.0
        size = np.abs(self.entries)
        return float(np.mean((size > 0) & (size < smallest)))

    def above(self, largest: float) -> float:
        """The share of entries that are larger in size than a number."""
        return float(np.mean(np.abs(self.entries) > largest)) if self.entries.size else 0.0


class SignalWitness(Witness):
    """Collects :class:`SignalStatistics` while ``watched_nodes`` runs a model.

    Args:
        batch: how many samples the model is called with; None: the first axis counts none.
    """

    def __init__(self, batch: int | None = None) -> None:
        self.of: dict[Step, SignalStatistics] = {}
        self.batch = batch
        self._axes: dict[Step, Axes | None] = {}
        self._tensors: dict[Step, tuple[Tensor, int]] = {}

    def made(self, step: Step, tensor: Tensor) -> None:
        """Look at a tensor as it is now."""
        tensor = tensor.detach()
        axes = self._axes[step] = self._axes_of(step, tensor)
        entropy, places = self._attention(step, tensor)
        self._tensors[step] = tensor, _version(tensor)
        self.of[step] = _statistics(tensor, axes, self.batch, entropy, places)

    def returned(self, out: Any) -> None:
        """Let the tensors go."""
        self._tensors.clear()

    def by_name(self, reading: Reading) -> dict[str, SignalStatistics]:
        """What was seen, by the names of the nodes of the same run."""
        return {n: self.of[step] for n, step in reading.steps.items() if step in self.of}

    def _axes_of(self, step: Step, out: Tensor) -> Axes | None:
        """The axes of units."""
        row = step.row
        if row is None:
            return LAST if step.what == "source" else self._first_axes(step, out)
        if row.kind == "weight" and len(step.data) < 2:
            return unit_axes.of_weight(step, row.name, out)
        source = next((s for s in step.data if self._axes.get(s) is not None), None)
        if source is None or source not in self._tensors:
            return LAST if row.kind in ("embedding", "attention", "recurrent") else None
        taken = self._tensors[source][0]
        args = tuple(taken if a is source else a for a in step.args)
        axes = self._axes[source]
        return unit_axes.after(row, step.func, args, step.kwargs, taken, axes, out)

    def _first_axes(self, step: Step, out: Tensor) -> Axes | None:
        """Of a module or function without a row: those of what it takes, if it keeps the shape."""
        for source in step.data:
            if source.shape == tuple(out.shape):
                return self._axes.get(source)
        return None

    def _attention(self, step: Step, out: Tensor) -> tuple[float | None, float]:
        name = step.row.name if step.row is not None else ""
        if name == "softmax" and out.dim():
            dim = step.argument(1, "dim")
            given = self._now(step.data[0]) if step.data else None
            logits = out.log() if given is None or given.shape != out.shape else given
            return _entropy(_rows(logits.movedim(dim if isinstance(dim, int) else -1, -1)))
        if name == "scaled_dot_product_attention":
            fused = self._fused(step)
            return (None, 0.0) if fused is None else _entropy(fused)
        return None, 0.0

    def _fused(self, step: Step) -> Tensor | None:
        """Some rows of the logits of fused attention; None where q and k are gone."""
        q, k = (self._now(step.argument(i, n)) for i, n in enumerate(("query", "key")))
        given = step.argument(3, "attn_mask")
        mask = None if given is None else self._now(given)
        if q is None or k is None or (mask is None) != (given is None):
            return None
        scale, causal = step.kwargs.get("scale"), step.argument(5, "is_causal", False)
        return _attention_logits(q, k, mask, bool(causal), scale)

    def _now(self, value: Any) -> Tensor | None:
        """A tensor among the arguments, if it still is what it was."""
        if isinstance(value, Tensor):
            return value.detach()
        tensor, version = self._tensors.get(value, (None, 0))
        return tensor if tensor is not None and _version(tensor) == version else None


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _statistics(
    tensor: Tensor, axes: Axes | None, batch: int | None, entropy: float | None, places: float
) -> SignalStatistics:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_complex():
        tensor, axes = torch.view_as_real(tensor), None
    if tensor.dtype.itemsize == 1:  # torch compares no float8
        tensor = tensor.float()
    if not tensor.numel():
        return SignalStatistics(dtype, np.zeros(0), 0.0, 0, 0.0, 0.0)
    unit_low = unit_high = None
    if axes is not None:
        own = {axis % max(tensor.dim(), 1) for axis in axes}
        others = [dim for dim in range(tensor.dim()) if dim not in own]
        lows, highs = (tensor.amin(others), tensor.amax(others)) if others else (tensor, tensor)
        unit_low, unit_high = _numbers(lows), _numbers(highs)
        low, high = float(unit_low.min()), float(unit_high.max())
    else:
        low, high = (float(end) for end in tensor.aminmax())
    nonfinite = 0 if math.isfinite(high - low) else int((~tensor.isfinite()).sum())
    kept = _numbers(_some(tensor))
    kept = kept[np.isfinite(kept)]
    zeros = float(np.mean(kept == 0)) if kept.size else 0.0
    unlike = None if nonfinite else _decorrelation(tensor, batch)
    return SignalStatistics(
        dtype, kept, zeros, nonfinite, low, high, unit_low, unit_high, unlike, entropy, places
    )


def _numbers(values: Tensor) -> FloatArray:
    numbers: FloatArray = values.double().cpu().numpy().reshape(-1)
    return numbers


def _some(tensor: Tensor) -> Tensor:
    size = tensor.numel()
    flat = tensor.reshape(-1)
    return flat if size <= ENTRIES else flat[_places(size).to(tensor.device)]


@lru_cache(maxsize=512)
def _places(size: int) -> Tensor:
    """Random places of a tensor of a size, always the same."""
    return torch.randint(size, (ENTRIES,), generator=torch.Generator().manual_seed(size))


def _decorrelation(tensor: Tensor, batch: int | None) -> float | None:
    """1 − c of samples: the mean over pairs of the cosine, without loss of digits near c = 1."""
    if batch is None or batch < 2 or tensor.dim() < 2 or tensor.shape[0] % batch:
        return None
    rows = tensor[:: max(tensor.shape[0] // SAMPLES, 1)][:SAMPLES].flatten(1)
    rows = rows[:, :: max(rows.shape[1] // FEATURES, 1)][:, :FEATURES].double()
    sizes = rows.norm(dim=1, keepdim=True)
    if not bool((sizes > 0).all()):
        return None
    rows, count = rows / sizes, len(rows)
    return float((rows - rows.mean(0)).square().sum()) / (count - 1) if count > 1 else None


def _rows(logits: Tensor) -> Tensor:
    """Some rows of logits."""
    rows = logits.reshape(-1, logits.shape[-1])
    return rows[:: max(len(rows) // (ROWS * HEADS), 1)]


def _entropy(logits: Tensor) -> tuple[float | None, float]:
    """Mean entropy over the log of the places that a row may look at, and their mean number."""
    logits = logits.reshape(-1, logits.shape[-1]).double()
    masked = MASKED if not len(logits) or float(logits.max()) < -MASKED / 10 else LOST
    places = (logits > masked).sum(-1)
    logits, places = logits[places > 1], places[places > 1].double()
    if not len(logits) or bool(logits.isnan().any()):
        return None, 0.0
    sizes = torch.special.entr(logits.softmax(-1)).sum(-1) / places.log()
    return float(sizes.mean()), float(places.mean())


def _attention_logits(
    q: Tensor, k: Tensor, mask: Tensor | None, causal: bool, scale: float | None
) -> Tensor:
    """Q kᵀ · scale + mask for some rows of some samples and heads."""
    length, keys = q.shape[-2], k.shape[-2]
    if q.dim() > 3 and k.shape[-3] != q.shape[-3]:  # grouped keys
        k = k.repeat_interleave(q.shape[-3] // k.shape[-3], -3)
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    if mask is None and causal:
        mask = torch.ones(length, keys, dtype=torch.bool, device=q.device).tril()
    rows = torch.arange(length, device=q.device)[:: max(length // ROWS, 1)]
    if mask is not None:
        mask = mask.expand(*lead, length, keys).reshape(-1, length, keys)[:HEADS, rows]
    q = q.expand(*lead, *q.shape[-2:]).reshape(-1, *q.shape[-2:])[:HEADS, rows].float()
    k = k.expand(*lead, *k.shape[-2:]).reshape(-1, *k.shape[-2:])[:HEADS].float()
    logits = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None and mask.dtype == torch.bool:
        logits = logits.masked_fill(~mask, -math.inf)
    elif mask is not None:
        logits = logits + mask
    return logits
