"""Numbers too small or too large for a floating-point format: of the one in use, of others."""

from __future__ import annotations

import math
from collections.abc import Iterator

from scipy.special import erf, erfc

from sigprop.checking import words
from sigprop.checking.evidence import Evidence
from sigprop.checking.findings import Finding, Level
from sigprop.checking.limits import Limits
from sigprop.checking.signals import LARGEST, SMALLEST_NORMAL

SHORT = ("float16", "bfloat16")
"""Formats that a net computes in; of the float8 there is only a forecast."""


def in_use(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    """Layers whose entries are lost, or short of digits, in the format they are computed in."""
    for node in evidence.graph.nodes:
        seen = evidence.signals.get(node.name)
        if node.kind not in ("weight", "sum") or seen is None or seen.dtype not in SHORT:
            continue
        smallest = SMALLEST_NORMAL[seen.dtype]
        lost = seen.below(smallest) + (seen.zeros if _has_signal(evidence, node.name) else 0.0)
        if lost > limits.underflow_warned:
            level: Level = "unhealthy" if lost > limits.underflow else "warning"
            detail = (
                f"{100 * lost:.3g} % of its entries are below the smallest normal number of "
                f"{seen.dtype} ({smallest:.2g}), or 0{_forecast(evidence, node.name, smallest)}"
            )
            advice = f"Compute it in bfloat16 or float32, or keep the signal at size 1. {_KEEP}"
            yield Finding(node.name, words.UNDERFLOW, detail, advice, level)
            return


def forecast(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    """Formats that are not in use and that the signals or gradients of this net would not fit."""
    used = {seen.dtype for seen in evidence.signals.values()}
    layers = evidence.graph.of_kind("weight")
    if used & set(SHORT):
        return
    sizes = {node.name: q for node in layers if (q := evidence.q(node.name))}
    for problem, share, edge, most in (
        (words.TOO_SMALL, below, SMALLEST_NORMAL, limits.underflow),
        (words.TOO_LARGE, above, LARGEST, 1e-6),
    ):
        shares = {(n, f): share(q, edge[f]) for f in edge for n, q in sizes.items()}
        found = {pair: part for pair, part in shares.items() if part > most}
        if not found:
            continue
        worst, _ = max(found, key=found.__getitem__)
        layers_of = {f: sum(other == f for _, other in found) for f in edge}
        counts = [f"{count} in {f}" for f, count in layers_of.items() if count]
        what = "below the smallest normal" if edge is SMALLEST_NORMAL else "above the largest"
        detail = f"of {len(layers)} layers {', '.join(counts)} would have entries {what} number"
        advice = "Scale tensors before they are cast to these formats, or keep another one."
        yield Finding(worst, problem, detail, advice, "note")


def gradients(evidence: Evidence, limits: Limits) -> Iterator[Finding]:
    """Gradients that no loss scale brings into float16 at once."""
    layers = [node.name for node in evidence.graph.of_kind("weight")]
    sizes = {name: math.sqrt(g) for name in layers if (g := evidence.gradient(name))}
    if not sizes:
        return
    low, high = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    best = LARGEST["float16"] / 8 / sizes[high]  # so that eight standard deviations fit
    share = below((sizes[low] * best) ** 2, SMALLEST_NORMAL["float16"])
    if share > limits.underflow:
        detail = (
            f"with the largest loss scale that {high} allows, {100 * share:.3g} % of the gradient "
            "here would be below the smallest normal number of float16"
        )
        advice = f"Use bfloat16. {_KEEP}"
        yield Finding(low, f"{words.UNDERFLOW} of gradients in float16", detail, advice, "note")


def below(q: float, smallest: float) -> float:
    """The share of normal entries of a mean square that are smaller in size than a number.

    Example:
        >>> round(below(1.0, 2.0**-6), 4)
        0.0125
    """
    return float(erf(smallest / math.sqrt(2 * q))) if math.isfinite(q) else 0.0


def above(q: float, largest: float) -> float:
    """The share of them that are larger.

    Example:
        >>> round(above(448.0**2, 448.0), 4)
        0.3173
    """
    return float(erfc(largest / math.sqrt(2 * q))) if math.isfinite(q) else 1.0


_KEEP = 'sigprop.initialize(model, x, target="critical") keeps signals and gradients level.'


def _has_signal(evidence: Evidence, name: str) -> bool:
    """Whether zeros are no wonder's doing: the weights are not 0, and a signal enters."""
    if name in evidence.reading.weights:
        value = evidence.reading.weights[name].value
        if value.is_meta or not bool(value.any()):
            return False
    predicted = evidence.predicted.get(name)
    return predicted is None or predicted.q > 0


def _forecast(evidence: Evidence, name: str, smallest: float) -> str:
    node = evidence.predicted.get(name)
    if node is None or not node.q > 0:
        return ""
    return f"; {100 * below(node.q, smallest):.3g} % was to be expected"
