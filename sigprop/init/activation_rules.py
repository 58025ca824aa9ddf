"""Rules of activations: of a Gaussian signal, of another activation, at the critical point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sigprop.activations import Activation
from sigprop.graph import Node
from sigprop.init.responses import Response, composed, critical_point, respond
from sigprop.init.signals import Bent, SignalMoments, Trouble, merged
from sigprop.reading.call_records import leaky

if TYPE_CHECKING:
    from sigprop.init.rule_context import Result, Rules


def activation(rules: Rules, node: Node, signals: Sequence[SignalMoments]) -> Result:
    """φ of a Gaussian signal, of a function of one, or what was measured."""
    if len(signals) != 1:
        return rules.unknown(node, signals)
    (signal,) = signals
    record = node.activation
    if record is None and node.alpha is not None:
        record = leaky(node.alpha)
    outside = node if node.alpha is None else signal.outside
    if record is None:
        found = rules.by_example(node, signals)
        if found is not None and rules.criterion.kind != "critical":
            return found[0]._replace(makers=(node.name,), outside=outside), found[1]
        return rules.unknown(
            node, signals, "which is not known to be a function of one number, entry by entry"
        )
    q, mean, growth, alpha = signal.q, signal.mean, signal.growth, node.alpha
    if signal.bent is not None:
        try:
            assert signal.bent.record is not None
            record = composed(record, signal.bent.record, signal.bent.factor, signal.bent.shift)
        except (AssertionError, TypeError, ValueError):
            why = (
                f"which acts on the output of {signal.bent.node} and not on that of a weight "
                "layer: its input is not Gaussian"
            )
            return rules.unknown(node, signals, why)
        q, mean, growth, alpha = signal.bent.q, signal.bent.mean, signal.bent.growth, None
    elif signal.uneven and alpha is None:
        why = "which acts on units multiplied by different constants: its input is not Gaussian"
        return rules.unknown(node, signals, why)
    if rules.criterion.kind == "critical":
        return _critical(rules, node, signal, record)
    response = respond(record, q, mean)
    if response is None or not math.isfinite(response.q) or response.q < 0:
        return rules.unknown(node, signals, f"of which second moment {q:.4g} is out of range")
    at_level = signal.slopes == (1.0,) and alpha is not None
    kept = None if signal.uneven else record
    return SignalMoments(
        response.q,
        response.mean,
        signal.level,
        known=signal.known,
        raw=signal.raw,
        stated=signal.stated,
        growth=growth * response.growth,
        origins=signal.origins,
        makers=(node.name,),
        slopes=alpha if at_level else None,
        bent=None if signal.raw else Bent(node, kept, q, mean, growth),
        outside=outside,
        guesses=signal.guesses,
        basis=signal.basis,
        units=signal.units,
    ), (_slope(response, signal, q),)


def _slope(response: Response, signal: SignalMoments, q: float) -> float | None:
    """E φ′² of the last step alone: of a composition, what is not in the first."""
    if signal.bent is None or signal.bent.record is None:
        return response.slope
    inner = respond(signal.bent.record, q, signal.bent.mean)
    if inner is None or inner.slope == 0:
        return None
    return response.slope / (inner.slope * signal.bent.factor**2)


def _critical(rules: Rules, node: Node, signal: SignalMoments, record: Activation) -> Result:
    """The share of q that χ = 1 leaves, 1/g²: in units of the fixed point."""
    alpha = node.alpha if signal.bent is None else None
    at_level = signal.slopes == (1.0,)
    if alpha is not None:
        square = (1 + sum(a * a for a in alpha) / len(alpha)) / 2
        growth, point = 1.0, signal.point
    else:
        found = critical_point(record, rules.criterion.bias_std)
        if math.isnan(found.gain):
            at = f"bias_std={rules.criterion.bias_std:g}"
            why = f"which has no critical gain at {at}: {found.reason}"
            whole = merged([signal], q=1.0, mean=0.0, growth=0.0)
            trouble = Trouble(node, why, bracket=found.bracket)
            return whole._replace(trouble=trouble, makers=(node.name,)), (None,)
        square, growth, point = found.gain**-2, abs(found.chi_parallel), record
        if found.q_star == 0 and not found.stable:  # q leaves 0 by as much as it grows at 1
            response = respond(record, 1.0)
            growth = growth if response is None else found.gain**2 * response.q
    before, start = signal.q, signal.growth
    if signal.bent is not None:
        before, start = signal.bent.q, signal.bent.growth
    out = merged([signal], q=before * square, mean=0.0, growth=start * growth)
    return out._replace(
        level=signal.level,
        makers=(node.name,),
        slopes=alpha if at_level else None,
        bent=None if signal.raw else Bent(node, record, before, 0.0, start),
        point=point,
    ), (out.q / signal.q if signal.q > 0 else None,)
