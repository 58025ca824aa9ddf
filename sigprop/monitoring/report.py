"""From the numbers of a step to rows: one row a layer, in the order of the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from sigprop.monitoring.sites import FIELDS, SLOPE_FIELDS, Site, Slopes, Step, to_host
from sigprop.records import Row
from sigprop.theory.leaky import g_star


@dataclass(frozen=True)
class LayerReport:
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
        grad_second_moment: mean square of ∂L/∂z; None: no gradient came, or a gradient scaler
            skipped steps because they overflowed (this one is the first it let through).
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
        slope_grad: ∂L/∂α = Σ δ z 1{z<0}, mean over channels; of the loss as it was given.
        slope_grad_min: smallest |∂L/∂α| of a channel.
        slope_grad_max: largest.
        gain: √(fan_in · mean W²), the gain the weights have now; None: no weight here.
        g_star: critical gain √(2/(1 + mean α²)) for the slopes that feed the layer now (a layer fed
            by the input: those it feeds; by another layer or a normalization: 1); None: not known,
            or disagreeing.
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


def report(
    step: Step, last_fired: dict[str, Tensor], cutoff: int, loss_scale: float | Tensor
) -> list[Row]:
    """Bring a step home, in one synchronisation, as one flat row a site.

    Args:
        step: what was gathered.
        last_fired: for each site, the step in which each unit fired last; is brought up to date.
        cutoff: a unit that has not fired since this step is dead, if it can die.
        loss_scale: what the loss was multiplied by; gradients are divided by it. If it was another
            when the step started, a scaler has skipped steps since: no gradient is reported.
    """
    sites = [site for site in step.sites.values() if site.forward is not None]
    if not sites:
        return []
    vectors = []
    for site in sites:
        fired = _bring_up_to_date(site, step.number, last_fired)
        slopes = step.slopes.get(site.activation_name)
        vectors.append(site.packed(slopes, last_fired[site.name], ~fired, cutoff))
    learnt = {name: s for name, s in step.slopes.items() if s is not None and s.vector is not None}
    vectors += [s.vector for s in learnt.values() if s.vector is not None]
    scales = [torch.as_tensor(s, dtype=torch.float64) for s in (loss_scale, step.first_scale)]
    vectors += [scale.reshape(1).to(vectors[0].device) for scale in scales]
    *numbers, (scale,), (first_scale,) = to_host(vectors)
    of_slopes = [dict(zip(SLOPE_FIELDS, n, strict=True)) for n in numbers[len(sites) :]]
    statistics = dict(zip(learnt, of_slopes, strict=True))
    squares = _mean_squares(step.slopes, statistics)
    rows = []
    for site, values in zip(sites, numbers, strict=False):
        seen = dict(zip(FIELDS, values, strict=True))
        slopes = step.slopes.get(site.activation_name)
        row = _signal(step, site, seen, scale)
        row |= _slopes(site, slopes, statistics.get(site.activation_name), seen, scale)
        if scale != first_scale:  # steps skipped in between have left infinite gradients
            row |= dict.fromkeys(GRADIENTS)
        row |= _gain(step, site, seen, squares)
        rows.append(asdict(LayerReport(**row)))
    return rows


def _bring_up_to_date(site: Site, number: int, last_fired: dict[str, Tensor]) -> Tensor:
    assert site.fired is not None
    fired = site.fired
    before = last_fired.get(site.name)
    if before is None or before.shape != fired.shape:
        before = torch.full(fired.shape, -1, dtype=torch.int64)
    last_fired[site.name] = before.to(fired.device).masked_fill(fired, number)
    return fired


def _mean_squares(
    slopes: Mapping[str, Slopes | None], statistics: Mapping[str, Mapping[str, float]]
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


def _signal(step: Step, site: Site, seen: Mapping[str, float], scale: float) -> Row:
    entries, graded = site.entries, site.grad is not None
    return {
        "step": step.number,
        "name": site.name,
        "kind": site.kind,
        "activation": site.activation,
        "activation_name": site.activation_name,
        "passes": site.passes,
        "entries": entries,
        "second_moment": seen["squares"] / entries,
        "negative_share": math.nan if seen["nonfinite"] else seen["negative"] / entries,
        "nonfinite": int(seen["nonfinite"]),
        "units": site.units,
        "silent_units": int(seen["silent"]),
        "dead_units": None if site.dies is None else int(seen["dead"]),
        "last_fired": int(seen["oldest"]),
        "grad_second_moment": seen["grad_squares"] / site.grad_entries / scale**2
        if graded
        else None,
        "grad_nonfinite": int(seen["grad_nonfinite"]) if graded else None,
    }


def _slopes(
    site: Site,
    slopes: Slopes | None,
    statistics: Mapping[str, float] | None,
    seen: Mapping[str, float],
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
    if site.slope_grads is not None:
        row["slope_signal"] = seen["slope_size"] / site.slope_entries / scale
        row |= {k: seen[k] / scale for k in ("slope_grad", "slope_grad_min", "slope_grad_max")}
    return row


def _gain(
    step: Step, site: Site, seen: Mapping[str, float], squares: Mapping[str, float | None]
) -> Row:
    row: Row = {
        "gain": None,
        "g_star": None,
        "gain_ratio": None,
        "normalized": site.name in step.normalized,
    }
    if site.weight is None:
        return row
    row["gain"] = math.sqrt(site.fan_in * seen["weight_squares"] / site.weight_entries)
    mean_square = _feeding(step, site.name, squares)
    if mean_square is not None and math.isfinite(mean_square):
        row["g_star"] = float(g_star(math.sqrt(mean_square)))
        row["gain_ratio"] = row["gain"] / row["g_star"]
    return row


def _feeding(step: Step, name: str, squares: Mapping[str, float | None]) -> float | None:
    """Mean α² of what feeds a layer; None if it is not known or its branches disagree."""
    tokens = step.feeds.get(name)
    if tokens is None:
        return None
    made = [token for token in tokens if token[0] != "input"]
    made = made or [("activation", head) for head in step.heads.get(name, ())]
    linear = ("layer", "normalized")
    found = [1.0 if source in linear else squares.get(where) for source, where in made]
    known = [value for value in found if value is not None]
    if not known or len(known) < len(found) or not _close(known):
        return None
    return known[0]


def _close(values: Sequence[float]) -> bool:
    return all(math.isclose(v, values[0], rel_tol=1e-6, abs_tol=1e-12) for v in values)
