"""Normal scores of measured nets, from their statistics and the law of the theory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sigprop.checks import FloatArray
from sigprop.measurement.step_statistics import summed_in
from sigprop.measurement.steps import NetSteps
from sigprop.validation.function_law import RESOLVED
from sigprop.validation.judge import ENOUGH, cumulant_score, sign_flip_score, stand_in
from sigprop.validation.nets import NetPlan

FAMILIES = (
    "forward weights",
    "backward weights",
    "forward activations",
    "backward activations",
)

FEWEST = 16
"""Units with random signs, or of any function, whose sum is near enough to its law to be tested."""
SPACINGS = 6
"""Powers of two above the smallest number of a dtype, below which a signal is mostly rounding."""

VISIBLE = 1e-12
"""Share of a second moment that comes from the weights, below which no gain is seen."""
REPEATED = 0.9
"""Share of the variance of mean φ² that mean z² may explain for φ to be tested on its own."""


@dataclass(frozen=True)
class EnteringLaw:
    """What the claim says of the pre-activations of every layer, given what entered it.

    Attributes:
        log_q: log of their expected mean square, shape (L, B).
        cosines: their correlation over pairs of inputs, shape (L, B, B).
        share: the part of that mean square that comes from the weights, not the biases.
        alive: which inputs reach the layer at all.
        batch: how many do, shape (L,).
    """

    log_q: FloatArray
    cosines: FloatArray
    share: FloatArray
    alive: NDArray[np.bool_]
    batch: NDArray[np.int_]

    @classmethod
    def of(cls, net: NetSteps, plan: NetPlan) -> EnteringLaw:
        """The law of one net's layers under the claims of a plan."""
        log_weights = 2 * math.log(plan.gain) + net.log_h
        with np.errstate(divide="ignore", invalid="ignore"):
            log_q = np.logaddexp(log_weights, 2 * np.log(plan.bias_std))
            share = np.exp(log_weights - log_q)
        alive = np.isfinite(log_q)
        cosines = _outer(np.sqrt(np.where(alive, share, 0.0))) * net.cosines
        cosines += _outer(np.sqrt(np.where(alive, 1 - share, 0.0)))
        return cls(log_q, cosines, share, alive, np.maximum(alive.sum(axis=1), 1))


class ScoreSums:
    """Sums over nets of what the scores need; one net's statistics are held at a time."""

    def __init__(self, plan: NetPlan, in_features: int) -> None:
        self.plan = plan
        self.sizes = (in_features, *plan.widths)
        depth = len(plan.widths)
        self.nets = 0
        self.log_q = np.zeros(depth + 1)
        self.log_grad = np.zeros(depth + 1)
        self.alive = np.zeros(depth + 1)
        # Per direction (forward, backward) and layer: nets, Σ of what has expectation one, Σ of its
        # second and third cumulants, Σ (seen gain/claimed gain)². For the activations of the leaky
        # family Σ, Σ of squares, Σ of fourth powers and number of the differences that are not 0;
        # of others nets, Σ, Σ of both cumulants and of the covariance with the forward weights.
        self.ratios = np.zeros((2, depth, 5))
        self.looked = np.zeros((2, depth))
        self.differences = np.zeros((2, depth - 1, 4))
        self.squares = np.zeros((depth - 1, 5))
        self.slope_square = np.nan if plan.slopes is None else plan.slopes**2

    def add(self, net: NetSteps) -> None:
        """Take one net in.

        Raises:
            FloatingPointError: the signal left the range of the dtype.
        """
        self._check_range(net)
        self.nets += 1
        lives = np.isfinite(net.log_q) & np.isfinite(net.log_grad[-1])
        with np.errstate(invalid="ignore"):
            rise = np.where(lives, net.log_q - net.log_q[0], 0.0)
            back = np.where(lives, net.log_grad - net.log_grad[-1], 0.0)
        self.alive += lives.mean(axis=1)
        self.log_q += rise.mean(axis=1)
        self.log_grad += back.mean(axis=1)
        entering = EnteringLaw.of(net, self.plan)
        seen = self._seen(net, entering)
        estimates = (self._forward(net, entering), self._backward(net))
        for sums, looked, estimate, large in zip(
            self.ratios, self.looked, estimates, seen, strict=True
        ):
            ratio, k2, k3, degrees, gain_square = estimate
            tested = np.isfinite(ratio) & large
            looked += np.isfinite(ratio)
            parts = (np.ones_like(ratio), ratio, 2 * k2 / degrees, 8 * k3 / degrees**2, gain_square)
            sums += np.where(tested[:, None], np.stack(parts, axis=1), 0.0)
        if self.plan.slopes is None:
            self._add_squares(net, entering)
        else:
            self._add_differences(net)

    def _seen(self, net: NetSteps, entering: EnteringLaw) -> tuple[NDArray[np.bool_], ...]:
        """Layers whose z, and whose gradient, are to be larger than the spacing of the dtype.

        By what enters them alone: what comes out has no say in whether it is tested.
        """
        finest = math.log2(torch.finfo(self.plan.dtype).smallest_normal)
        finest += math.log2(torch.finfo(self.plan.dtype).eps) + SPACINGS
        widths = np.array((self.sizes[0], *self.plan.widths), dtype=np.float64)
        steps = 2 * math.log(self.plan.gain) + np.log(widths[1:] / widths[:-1])
        gradient = net.log_grad[1:] + steps[:, None]
        found = []
        for size, power in zip((entering.log_q, gradient), net.log2_scales, strict=True):
            stored = size / (2 * math.log(2)) + power[:, None]
            found.append(np.where(np.isfinite(size), stored, math.inf).min(axis=1) >= finest)
        return tuple(found)

    def _add_differences(self, net: NetSteps) -> None:
        """Leaky family: what z and −z give is equally likely either way, rounding included."""
        layer = 0
        for run in net.mirrors:
            difference, mean, before = np.moveaxis(run, 2, 0)
            change = difference + self._not_rounding(mean, before)
            # Both directions share the signs of the units: of backward only the rest is news.
            forward, backward = change[:, 0], change[:, 1]
            norm, shared = (_dot(forward, other) for other in (forward, backward))
            overlap = shared / np.where(norm > 0, norm, 1.0)
            moving = np.count_nonzero(change, axis=-1)
            backward -= overlap[:, None] * forward
            square = change**2
            fourth = _dot(square, square)
            parts = (change.sum(axis=-1), square.sum(axis=-1), fourth, moving)
            self.differences[:, layer : layer + len(change)] += np.stack(parts, axis=-1).swapaxes(
                0, 1
            )
            layer += len(change)

    def _not_rounding(self, mean: FloatArray, before: FloatArray) -> FloatArray:
        """What the mean over ±z differs by from the claim; zero where rounding explains it.

        A dtype changes the slope and the product by half an eps each, so α² by 2 eps at most.

        Args:
            mean: over ±z, of each unit, shape (…, n).
            before: what the claim makes of it.
        """
        square = self.slope_square * before
        excess = mean - (before + square) / 2
        dtype = self.plan.dtype
        claimed = torch.finfo(dtype).eps * square.sum(axis=-1)
        here = 16 * torch.finfo(summed_in(dtype)).eps * mean.sum(axis=-1)
        real = np.abs(excess.sum(axis=-1)) > claimed + here
        return np.where(real[..., None], excess, 0.0) if real.any() else np.zeros(())

    def scores(self) -> dict[str, FloatArray]:
        """Family → normal score of each layer, shape (L + 1,), NaN where nothing is tested."""
        nothing = [math.nan]
        scores = []
        for nets, ratio, k2, k3, _ in np.moveaxis(self.ratios, -1, 1):
            degrees, exact = stand_in(nets, k2, k3)
            tested = np.where((nets > 0) & (exact | (degrees >= ENOUGH)), 1.0, np.nan)
            score = cumulant_score(ratio, nets, k2 * tested, k3 * tested)
            scores.append(np.concatenate((nothing, score)))
        for score in self._activation_scores(scores[0][1:-1]):
            scores.append(np.concatenate((nothing, score, nothing)))
        return dict(zip(FAMILIES, scores, strict=True))

    def untested(self) -> tuple[str, ...]:
        """What is left out although it could be tested of other nets, and why."""
        found = []
        for index, (name, score) in enumerate(self.scores().items()):
            inside = score[1:] if index < 2 else score[1:-1]
            missing = np.isnan(inside)
            if index < 2:  # of fewer units than inputs the gradient says nothing anyway
                missing &= self.looked[index] > 0
            if not missing.any():
                continue
            if index < 2:
                dtype = str(self.plan.dtype).removeprefix("torch.")
                why = (
                    f"fewer than {ENOUGH} degrees of freedom, so that no law is known for several "
                    f"inputs, or signals below 2^{SPACINGS} times the smallest {dtype}"
                )
            elif self.plan.slopes is not None:
                why = f"fewer than {FEWEST} units give another size at −z than at z"
            elif name == "forward activations":
                why = (
                    f"fewer than {FEWEST} units, or φ is so close to linear that mean φ² repeats "
                    f"mean z², or second moments are above {RESOLVED:g} and its features too narrow"
                )
            else:
                why = "no exact law of the gradient is known outside the leaky family"
            layers = len(inside)
            found.append(f"{name}: not tested at {missing.sum()} of {layers} layers; {why}")
        return tuple(found)

    def _activation_scores(self, weights: FloatArray) -> list[FloatArray]:
        if self.plan.slopes is None:
            nets, total, k2, k3, shared = self.squares.T
            units = nets * np.array(self.plan.widths[:-1])
            enough = (units >= FEWEST) & (stand_in(nets, k2, k3)[0] >= FEWEST)
            tested = np.where(enough, 1.0, np.nan)
            score = cumulant_score(total, nets, k2 * tested, k3 * tested)
            # Mean φ² moves with mean z², which the forward weights test: this is the rest of it.
            with np.errstate(invalid="ignore", divide="ignore"):
                overlap = shared / np.sqrt(k2 * self.ratios[0, :-1, 2])
            rest = np.sqrt(1 - np.where(overlap**2 <= REPEATED, overlap, np.nan) ** 2)
            return [(score - overlap * weights) / rest, np.full_like(score, np.nan)]
        scores = []
        for total, square, fourth, moving in np.moveaxis(self.differences, -1, 1):
            square = np.where((moving >= FEWEST) & (square > 0), square, np.nan)
            scores.append(sign_flip_score(total, square, fourth))
        return scores

    def gains(self) -> tuple[FloatArray, FloatArray]:
        """The gain of each weight layer, seen forward and seen backward, shape (L + 1,)."""
        nets, square = self.ratios[..., 0], self.ratios[..., 4]
        seen = np.where(nets > 0, square, np.nan) / np.maximum(nets, 1)
        # A bias variance above the whole second moment leaves no gain to see.
        seen = self.plan.gain * np.sqrt(np.where(seen >= 0, seen, np.nan))
        forward, backward = (np.concatenate(([math.nan], row)) for row in seen)
        return forward, backward

    def mean_logs(self) -> tuple[FloatArray, FloatArray]:
        """Mean rise of log q̂ since the input, and of the log gradient since the output."""
        alive = np.where(self.alive > 0, self.alive, np.nan)
        return self.log_q / alive, self.log_grad / alive

    def _backward(self, net: NetSteps) -> tuple[FloatArray, ...]:
        """Ratio of expectation one, k2, k3, degrees, gain² over the claim; from the gradient."""
        ratio, k2, k3, degrees = net.backward.T
        return ratio / self.plan.gain**2, k2, k3, degrees, ratio / self.plan.gain**2

    def _forward(self, net: NetSteps, entering: EnteringLaw) -> tuple[FloatArray, ...]:
        """The same from the signal."""
        alive, batch, cosines = entering.alive, entering.batch, entering.cosines
        with np.errstate(divide="ignore", invalid="ignore"):
            seen = np.exp(net.log_q[1:] - entering.log_q)
            share = np.where(entering.share > VISIBLE, entering.share, np.nan)
            gain_square = np.where(alive, (seen - 1) / share + 1, 0.0).sum(axis=1) / batch
        return (
            np.where(alive.any(axis=1), np.where(alive, seen, 0.0).sum(axis=1) / batch, np.nan),
            (cosines**2).sum(axis=(1, 2)) / batch**2,
            ((cosines @ cosines) * cosines).sum(axis=(1, 2)) / batch**3,
            np.array(self.plan.widths, dtype=np.float64),
            gain_square,
        )

    def _add_squares(self, net: NetSteps, entering: EnteringLaw) -> None:
        """Any function: the mean square after the activation against its conditional law."""
        if len(self.plan.widths) == 1:
            return
        q, cosines = np.exp(entering.log_q[:-1]), entering.cosines[:-1]
        units, law = np.array(self.plan.widths[:-1], dtype=np.float64), self.plan.law
        batch = q.shape[1]
        with np.errstate(invalid="ignore", divide="ignore"):  # a dead input, or φ² constant
            ratio = np.exp(net.log_h[1:]) / law.second_moment(q)
            covariance = law.square_covariance(q, cosines)
            single = np.diagonal(covariance, axis1=1, axis2=2).mean(axis=1)
            k2 = covariance.sum(axis=(1, 2)) / batch**2
            # Exact for one input and for equal ones; in between its shape is interpolated.
            k3 = law.square_third_moment(q).mean(axis=1) * (k2 / single) ** 2
        shared = law.square_overlap(q, cosines).sum(axis=(1, 2)) / batch**2
        parts = (np.ones_like(k2), ratio.mean(axis=1), k2 / units, k3 / units**2, shared / units)
        tested = np.isfinite(parts).all(axis=0) & (q.max(axis=1) <= RESOLVED)
        self.squares += np.where(tested[:, None], np.stack(parts, axis=1), 0.0)

    def _check_range(self, net: NetSteps) -> None:
        logs = np.stack((net.log_q, net.log_grad))
        left = (np.isnan(logs) | np.isposinf(logs)).any(axis=(0, 2))
        if left.any():
            raise FloatingPointError(
                f"net {self.nets}: not finite in {self.plan.dtype} at layer "
                f"{int(np.flatnonzero(left)[0])}; if the initialization is meant to grow like "
                "this, use layerwise=True (no limit) or dtype=torch.float64."
            )


def _outer(rows: FloatArray) -> FloatArray:
    """Outer product of every row with itself, shape (layers, B, B)."""
    return rows[:, :, None] * rows[:, None, :]


def _dot(a: FloatArray, b: FloatArray) -> FloatArray:
    """Σ a·b over the last axis."""
    total: FloatArray = np.einsum("...n,...n->...", a, b)
    return total
