"""From the numbers of a step to rows: one row a layer, in the order of the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sigprop.measurement.layer_statistics import (
    FIELDS,
    LayerStatistics,
    Observation,
    SlopeStatistics,
    to_host,
)
from sigprop.measurement.statistics import SLOPE_FIELDS
from sigprop.records import Row
from sigprop.results import Result
from sigprop.theory.leaky import g_star


@dataclass(frozen=True)
class LayerReport(Result):
    """What one layer did in one reported step; means are over all entries the step saw.

    Attributes:
        step: number of the step, from 0.
        name: path of the weight layer whose output this is; of the activation, where something
            stands between (normalization, a sum of branches). A functional call is named after its
            module and itself, ``block.relu``; ``#2`` marks a second call in one pass.
        kind: class of the module or name of the function.
        activation: kind of the activation that z enters, "" if none.
        activation_name: its name.
        passes: forward passes in the step (gradient accumulation, replicas).
        entries: numbers in z.
        second_moment: mean of z², q̂.
        negative_share: share of z below 0, p̂₋; NaN if some z are not finite.
        nonfinite: entries of z that are NaN or infinite.
        units: units (channels).
        silent_units: units with no z above 0 in this step.
        dead_units: units with no z above 0 in this and the last reported steps (``window`` of the
            thresholds), whose activation is constant below zero; None where that is not known.
        last_fired: the longest silence: the smallest, over units, of the last reported step in
            which the unit fired; −1: one has not fired yet.
        grad_second_moment: mean square of ∂L/∂z over the entries that a gradient reached, of the
            backward passes that reached a parameter and whose gradients were kept, each a sample
            of its own; None: no gradient came, or a gradient scaler skipped steps because they
            overflowed (this one is the first it let through).
        grad_nonfinite: entries of ∂L/∂z that are NaN or infinite.
        slopes: number of negative slopes; None outside the leaky family.
        slope_mean: their mean.
        slope_min: the smallest.
        slope_max: the largest.
        slope_below_0: share of slopes below 0.
        slope_above_1: share of slopes above 1.
        slope_learns: whether the slopes ask for a gradient; None: they are no tensor.
        slope_signal: mean over entries of |δ z 1{z<0}|, δ = ∂L/∂φ(z); near 0 the slope learns
            nothing.
        slope_grad: ∂L/∂α = Σ δ z 1{z<0}, mean over channels; of the loss as it was given. None,
            like the other slope gradients, where a gradient was itself differentiated in this step
            (gradient penalties): slopes then get a part that does not go through δ.
        slope_grad_min: smallest |∂L/∂α| of a channel.
        slope_grad_max: largest.
        gain: √(fan_in · mean W²), the gain the weights have now; None: no weight here.
        g_star: critical gain √(2/(1 + mean α²)) for the slopes that feed the layer now (a layer fed
            by the input: those it feeds; by another layer or a normalization: 1), less what
            constant factors and dropout on the way do; None: not known, or disagreeing.
        gain_ratio: gain / g_star.
        normalized: whether z is normalized next (or after an activation of the leaky family),
            which takes the gain out.
        finding: what is wrong in a word or two, "" if nothing.
    """

    step: int
    name: str
    kind: str
    activation: str
    activation_name: str
    passes: int
    entries: int
    second_moment: float
    negative_share: float
    nonfinite: int
    units: int
    silent_units: int
    dead_units: int | None
    last_fired: int
    grad_second_moment: float | None
    grad_nonfinite: int | None
    slopes: int | None
    slope_mean: float | None
    slope_min: float | None
    slope_max: float | None
    slope_below_0: float | None
    slope_above_1: float | None
    slope_learns: bool | None
    slope_signal: float | None
    slope_grad: float | None
    slope_grad_min: float | None
    slope_grad_max: float | None
    gain: float | None
    g_star: float | None
    gain_ratio: float | None
    normalized: bool
    finding: str = ""


GRADIENTS = (
    "grad_second_moment", "grad_nonfinite", "slope_signal", "slope_grad", "slope_grad_min",
    "slope_grad_max",
)  # fmt: skip
"""The fields that are made of gradients."""


CENTRED = 1e-5
"""Weights whose row means are below this share of their size were made to sum to zero."""


def report(
    seen: Observation, last_fired: dict[str, Tensor], cutoff: int, loss_scale: float | Tensor
) -> list[Row]:
    """Bring a step home, in one synchronisation, as one flat row a layer.

    Args:
        seen: what was gathered.
        last_fired: for each layer, the step in which each unit fired last; is brought up to date.
        cutoff: a unit that has not fired since this step is dead, if it can die.
        loss_scale: what the loss was multiplied by; gradients are divided by it. If it was another
            when the step started, a scaler has skipped steps since: no gradient is reported.
    """
    layers = [layer for layer in seen.layers.values() if layer.forward is not None]
    if not layers:
        return []
    vectors = []
    for layer in layers:
        _bring_up_to_date(layer, seen.number, last_fired)
        slopes = seen.slopes.get(layer.activation_name)
        vectors.append(layer.packed(seen.runs, slopes, last_fired[layer.name], cutoff))
    learnt = {name: s for name, s in seen.slopes.items() if s is not None and s.vector is not None}
    vectors += [s.vector for s in learnt.values() if s.vector is not None]
    scales = [torch.as_tensor(s, dtype=torch.float64) for s in (loss_scale, seen.first_scale)]
    vectors += [scale.reshape(1).to(vectors[0].device) for scale in scales]
    *numbers, (scale,), (first_scale,) = to_host(vectors)
    of_slopes = [dict(zip(SLOPE_FIELDS, n, strict=True)) for n in numbers[len(layers) :]]
    statistics = dict(zip(learnt, of_slopes, strict=True))
    squares = _mean_squares(seen.slopes, statistics)
    rows = []
    for layer, packed in zip(layers, numbers, strict=False):
        values = dict(zip(FIELDS, packed, strict=True))
        slopes = seen.slopes.get(layer.activation_name)
        row = _signal(seen, layer, values, scale)
        row |= _slopes(seen, layer, slopes, statistics.get(layer.activation_name), values, scale)
        if scale != first_scale:  # steps skipped in between have left infinite gradients
            row |= dict.fromkeys(GRADIENTS)
        row |= _gain(seen, layer, values, squares)
        rows.append(vars(LayerReport(**row)).copy())
    return rows


def _bring_up_to_date(layer: LayerStatistics, number: int, last_fired: dict[str, Tensor]) -> None:
    assert layer.fired is not None
    fired = layer.fired
    before = last_fired.get(layer.name)
    if before is None or before.shape != fired.shape:
        before = torch.full(fired.shape, -1, dtype=torch.int64)
    last_fired[layer.name] = before.to(fired.device).masked_fill(fired, number)


def _mean_squares(
    slopes: Mapping[str, SlopeStatistics | None], statistics: Mapping[str, Mapping[str, float]]
) -> dict[str, float | None]:
    """Mean α² of every activation call; None outside the family."""
    found: dict[str, float | None] = {}
    for name, each in slopes.items():
        if each is None:
            found[name] = None
        elif each.fixed is not None:
            found[name] = each.fixed**2
        else:
            found[name] = statistics[name]["mean_square"]
    return found


def _signal(
    seen: Observation, layer: LayerStatistics, values: Mapping[str, float], scale: float
) -> Row:
    entries = layer.entries
    _, graded = layer.gradient(seen.runs)
    return {
        "step": seen.number,
        "name": layer.name,
        "kind": layer.kind,
        "activation": layer.activation,
        "activation_name": layer.activation_name,
        "passes": layer.passes,
        "entries": entries,
        "second_moment": values["squares"] / entries,
        "negative_share": math.nan if values["nonfinite"] else values["negative"] / entries,
        "nonfinite": int(values["nonfinite"]),
        "units": layer.units,
        "silent_units": int(values["silent"]),
        "dead_units": None if layer.dies is None else int(values["dead"]),
        "last_fired": int(values["oldest"]),
        "grad_second_moment": values["grad_squares"] / graded / scale**2 if graded else None,
        "grad_nonfinite": int(values["grad_nonfinite"]) if graded else None,
    }


def _slopes(
    seen: Observation,
    layer: LayerStatistics,
    slopes: SlopeStatistics | None,
    statistics: Mapping[str, float] | None,
    values: Mapping[str, float],
    scale: float,
) -> Row:
    row: Row = dict.fromkeys(
        (
            "slopes", "slope_mean", "slope_min", "slope_max", "slope_below_0", "slope_above_1",
            "slope_learns", "slope_signal", "slope_grad", "slope_grad_min", "slope_grad_max",
        )
    )  # fmt: skip
    if slopes is None:
        return row
    row["slopes"] = slopes.count
    if slopes.fixed is not None:
        row |= dict.fromkeys(("slope_mean", "slope_min", "slope_max"), slopes.fixed)
        row |= {"slope_below_0": float(slopes.fixed < 0), "slope_above_1": float(slopes.fixed > 1)}
    elif statistics is not None:
        row |= {f"slope_{key}": statistics[key] for key in ("mean", "min", "max")}
        row |= {f"slope_{k}": statistics[k] / slopes.count for k in ("below_0", "above_1")}
        row["slope_learns"] = slopes.learns
    _, entries = layer.slope_gradient(seen.runs)
    if entries and not seen.runs.second_order:
        row["slope_signal"] = values["slope_size"] / entries / scale
        row |= {k: values[k] / scale for k in ("slope_grad", "slope_grad_min", "slope_grad_max")}
    return row


def _gain(
    seen: Observation,
    layer: LayerStatistics,
    values: Mapping[str, float],
    squares: Mapping[str, float | None],
) -> Row:
    row: Row = {
        "gain": None,
        "g_star": None,
        "gain_ratio": None,
        "normalized": layer.name in seen.normalized,
    }
    if layer.weight is None:
        return row
    row["gain"] = math.sqrt(layer.fan_in * values["weight_squares"] / layer.weight_entries)
    mean_square = values["weight_squares"] / layer.weight_entries
    centred = values["weight_means"] < CENTRED**2 * mean_square  # sees no mean: another gain
    left = None if centred else _left(seen, layer.name, squares)
    if left is not None and 0 < left < math.inf:
        row["g_star"] = 1 / math.sqrt(left)
        row["gain_ratio"] = row["gain"] / row["g_star"]
    return row


def _left(seen: Observation, name: str, squares: Mapping[str, float | None]) -> float | None:
    """The share of q that what feeds a layer leaves of it, (1 + mean α²)/2 behind an activation.

    A layer fed by the input counts by the activations it feeds. None: not known, or branches that
    disagree.
    """
    source = seen.feeds.get(name)
    if source is None or source.square is None:
        return None
    made, factor = [token for token in source.tokens if token[0] != "input"], source.square
    if not made:
        made, factor = [("activation", head) for head in seen.heads.get(name, ())], 1.0
    linear = ("layer", "normalized")
    found = [1.0 if kind in linear or not where else squares.get(where) for kind, where in made]
    known = [value for value in found if value is not None]
    if not known or len(known) < len(found) or not _close(known) or not math.isfinite(known[0]):
        return None
    return factor / _g_star_squared(known[0])


@lru_cache(maxsize=64)
def _g_star_squared(mean_square: float) -> float:
    """The square of g* for slopes of this mean square, which most layers of a net share."""
    return float(g_star(math.sqrt(mean_square))) ** 2


def _close(values: Sequence[float]) -> bool:
    return all(math.isclose(v, values[0], rel_tol=1e-6, abs_tol=1e-12) for v in values)
