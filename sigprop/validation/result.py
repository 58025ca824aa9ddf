"""What ``validate`` returns: curves, scores and a verdict, as a table, as rows, as text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from sigprop.checks import FloatArray
from sigprop.records import Row
from sigprop.results import Result, Shown
from sigprop.validation.judge import Family, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TENS = math.log(10)
NAMED = 8
"""Culprits listed by number; the rest are counted."""

COLUMNS = {
    "layer": ("layer", ""),
    "log10_q_expected": ("lg q law", ".3f"),
    "log10_q_measured": ("measured", ".3f"),
    "log10_grad_expected": ("lg grad law", ".3f"),
    "log10_grad_measured": ("measured ", ".3f"),
    "gain_forward": ("gain fwd", ".4f"),
    "gain_backward": ("gain bwd", ".4f"),
    "z_forward_weights": ("z fwd", ".1f"),
    "z_backward_weights": ("z bwd", ".1f"),
    "z_forward_activations": ("z act fwd", ".1f"),
    "z_backward_activations": ("z act bwd", ".1f"),
}
"""Key of a row → title and format in the printed table."""


@dataclass(frozen=True)
class Curve(Result):
    """The log of a second moment, layer by layer; arrays are indexed [layer], layer 0 = input.

    Attributes:
        mean_field: log of the mean-field value, which is also the log of the mean over nets.
        expected: exact expectation over nets of the log of one net's value (the typical net); with
            biases or outside the leaky family to first order in 1/width for q, mean field for the
            gradient.
        std: standard deviation over nets of the batch mean of the log, to first order in 1/width
            for several inputs; NaN where it is not known.
        measured: mean over nets and batch of the measured log; NaN where there is none.
        nets: number of nets behind ``measured``.
    """

    mean_field: FloatArray
    expected: FloatArray
    std: FloatArray
    measured: FloatArray
    nets: int

    def interval(self, confidence: float = 0.95) -> tuple[FloatArray, FloatArray]:
        """Where ``measured`` falls with this probability, layer by layer, if the theory holds.

        Normal in the logarithm; the test behind the p-value does not use it.
        """
        half = float(stats.norm.isf((1 - confidence) / 2)) * self.std / math.sqrt(self.nets)
        return self.expected - half, self.expected + half


@dataclass(frozen=True)
class Validation(Result):
    """Theory against measurement for one kind of net. Prints as a table and a verdict.

    Attributes:
        activation: its name.
        alpha: negative slope, or the slopes of a layer's channels; the parameter of that name of
            another activation, None if it has none.
        critical_gain: g* of the leaky family, else None.
        gain: the gain the theory claims for every weight layer.
        bias_std: the standard deviation it claims for the biases.
        widths: n_0, n_1 … n_L.
        seeds: number of nets.
        batch: inputs a net.
        dtype: of weights and signals.
        device: where the nets ran.
        layerwise: whether they ran one layer at a time.
        distribution: the law of the weights that it claims; None: only their variance.
        q: second moment of the pre-activations.
        grad: second moment of the gradient with respect to them, for a random cotangent of mean
            square one at layer L.
        scores: family → normal score of each layer, shape (L + 1,), NaN where not tested.
        gain_forward: gain of each weight layer as the forward pass shows it, shape (L + 1,).
        gain_backward: the same from the backward pass.
        verdict: the p-value and what it is made of.
        weight_kinds: layers whose weights are no independent normal numbers, with what they are;
            empty where ``distribution`` is None.
        notes: which families are left out at which layers, and why.
    """

    activation: str
    alpha: float | tuple[float, ...] | None
    critical_gain: float | None
    gain: float
    bias_std: float
    widths: tuple[int, ...]
    seeds: int
    batch: int
    dtype: str
    device: str
    layerwise: bool
    distribution: str | None
    q: Curve
    grad: Curve
    scores: dict[str, FloatArray]
    gain_forward: FloatArray
    gain_backward: FloatArray
    verdict: Verdict
    weight_kinds: tuple[tuple[int, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def depth(self) -> int:
        """Number of weight layers L."""
        return len(self.widths) - 1

    @property
    def p_value(self) -> float:
        """One p-value for the net: small means that the theory does not hold."""
        return self.verdict.p_value

    @property
    def holds(self) -> bool:
        """Whether the theory is not rejected at the level asked for."""
        return self.verdict.holds

    @property
    def gain_over_critical(self) -> float | None:
        """The claimed gain in units of the critical one, for the leaky family."""
        return None if self.critical_gain is None else self.gain / self.critical_gain

    def records(self) -> list[Row]:
        """One flat row a layer; second moments as base-10 logarithms."""
        curves: dict[str, FloatArray] = {}
        for name, curve in (("q", self.q), ("grad", self.grad)):
            low, high = curve.interval()
            curves |= {
                f"log10_{name}_mean_field": curve.mean_field,
                f"log10_{name}_expected": curve.expected,
                f"log10_{name}_low": low,
                f"log10_{name}_high": high,
                f"log10_{name}_measured": curve.measured,
            }
        scores = {f"z_{name.replace(' ', '_')}": values for name, values in self.scores.items()}
        return [
            {"layer": layer, "width": self.widths[layer]}
            | {name: float(values[layer] / TENS) for name, values in curves.items()}
            | {"gain_forward": float(self.gain_forward[layer])}
            | {"gain_backward": float(self.gain_backward[layer])}
            | {name: float(values[layer]) for name, values in scores.items()}
            | {"culprit": layer in self.verdict.culprits}
            for layer in range(self.depth + 1)
        ]

    def summary(self) -> Row:
        """One flat row: the net, where its signal ends, the p-value and the verdict."""
        return {
            "activation": self.activation,
            "alpha": self._alpha_words(),
            "gain": self.gain,
            "bias_std": self.bias_std,
            "gain_over_critical": self.gain_over_critical,
            "depth": self.depth,
            "width": max(self.widths[1:]),
            "seeds": self.seeds,
            "batch": self.batch,
            "dtype": self.dtype,
            "device": self.device,
            "log10_q_mean_field": float(self.q.mean_field[-1] / TENS),
            "log10_q_expected": float(self.q.expected[-1] / TENS),
            "log10_q_measured": float(self.q.measured[-1] / TENS),
            "log10_grad_mean_field": float(self.grad.mean_field[1] / TENS),
            "log10_grad_expected": float(self.grad.expected[1] / TENS),
            "log10_grad_measured": float(self.grad.measured[1] / TENS),
            "p_value": self.p_value,
            "holds": self.holds,
            "culprits": " ".join(map(str, self.verdict.culprits)),
            "tested": ", ".join(family.name for family in self.verdict.families),
            "weights": self._weight_words() or None,
            "notes": "; ".join(self.notes) or None,
        }

    def _shown(self) -> Shown:
        """The net in a line, about a dozen of its layers, the verdict in a line."""
        spread = np.linspace(0, self.depth, 12).round().astype(int).tolist()
        rows = self.records()
        body = [
            {title: rows[layer][key] for key, (title, _) in COLUMNS.items()}
            for layer in sorted({*spread, *self.verdict.culprits[:NAMED]})
        ]
        last = [*self.scope().splitlines(), self.conclusion()]
        return Shown([self._title()], body, dict(COLUMNS.values()), last)

    def _picture(self) -> Figure:
        from sigprop.plots import grid

        return grid([self])

    def scope(self) -> str:
        """What was tested, what was only measured, and what was left out, in lines."""
        lines = ["tested: " + ", ".join(family.name for family in self.verdict.families)]
        if self.distribution is None:
            lines.append(
                "measured only: the law of the weights beyond their variance "
                '(distribution="normal" tests it)'
            )
        return "\n".join([*lines, *self.notes])

    def conclusion(self) -> str:
        """The verdict in a line, with the reasons where the theory is rejected."""
        p = f"p = {self.p_value:.3g}" if self.p_value else "p < 1e-300"
        if self.holds:
            return f"theory holds: {p} (rejected below {self.verdict.level:g})"
        reasons = [why for family in self.verdict.families for why in self._reasons(family)]
        if words := self._weight_words():
            reasons.append(words)
        return f"theory REJECTED: {p}; " + "; ".join(reasons)

    def _reasons(self, family: Family) -> list[str]:
        reasons = []
        families = self.verdict.families
        worst = min(min(each.drift_p, each.layer_p) for each in families)
        if family.drift_p <= max(worst, self.verdict.level / (2 * len(families))):
            reasons.append(f"{family.name} drift over all layers (z = {family.drift_score:.1f})")
        if family.culprits:
            layers = ", ".join(map(str, family.culprits[:NAMED]))
            more = len(family.culprits) - NAMED
            reasons.append(
                f"{family.name} off at layer {layers}" + (f" and {more} more" if more > 0 else "")
            )
        if not reasons and family.layer_p <= max(worst, self.verdict.level):
            reasons.append(f"{family.name} off in some layers (|z| up to {family.largest:.1f})")
        return reasons

    def _weight_words(self) -> str:
        """Weights that are no independent normal numbers: what they are, and where."""
        layers: dict[str, list[int]] = {}
        for layer, kind in self.weight_kinds:
            layers.setdefault(kind, []).append(layer)
        found = []
        for kind, where in layers.items():
            more = f" and {len(where) - NAMED} more" if len(where) > NAMED else ""
            plural = "s" if len(where) > 1 else ""
            named = ", ".join(map(str, where[:NAMED]))
            found.append(f"weights of layer{plural} {named}{more}: {kind}")
        return "; ".join(found)

    def _alpha_words(self) -> float | str | None:
        return f"{len(self.alpha)} channels" if isinstance(self.alpha, tuple) else self.alpha

    def _title(self) -> str:
        alpha = self._alpha_words()
        slope = (
            "" if alpha is None else f"α = {alpha if isinstance(alpha, str) else f'{alpha:g}'}, "
        )
        units = "" if self.gain_over_critical is None else f" = {self.gain_over_critical:.4g}·g*"
        bias = f", bias {self.bias_std:g}" if self.bias_std else ""
        return (
            f"{self.activation}, {slope}gain {self.gain:.6g}{units}{bias}, depth {self.depth}, "
            f"width {max(self.widths[1:])}, {self.seeds} nets × {self.batch} inputs, {self.dtype} "
            f"on {self.device}" + (", layer by layer" if self.layerwise else "")
        )
