"""Nets in, scores out: where the law of the theory meets the statistics of the measurement."""

from __future__ import annotations

import math

import numpy as np
import torch

from sigprop.checks import FloatArray
from sigprop.compare import sign_flip_score, weighted_chi2_score
from sigprop.measurement.steps import NetSteps
from sigprop.validation.nets import NetPlan

FAMILIES = (
    "forward weights",
    "backward weights",
    "forward activations",
    "backward activations",
)


class Tally:
    """Sums over nets of what the scores need; one net's statistics are held at a time."""

    def __init__(self, plan: NetPlan) -> None:
        self.plan = plan
        depth = len(plan.widths)
        self.nets = 0
        self.log_q = np.zeros(depth + 1)
        self.log_grad = np.zeros(depth + 1)
        self.alive = np.zeros(depth + 1)
        # Per direction (forward, backward) and layer: nets, Σ ratio, Σ of its second and third
        # cumulants; and for the activations Σ, Σ of squares and Σ of fourth powers of differences.
        self.ratios = np.zeros((2, depth, 4))
        self.differences = np.zeros((2, depth - 1, 3))
        stored = torch.as_tensor(plan.slopes)
        if plan.activation == "prelu":
            stored = stored.to(plan.dtype)
        self.square = (1 + stored.double().numpy() ** 2) / 2

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
        for sums, estimate in zip(self.ratios, (net.forward, net.backward), strict=True):
            ratio, k2, k3, degrees = estimate.T
            tested = np.isfinite(ratio)
            parts = (np.ones_like(ratio), ratio, 2 * k2 / degrees, 8 * k3 / degrees**2)
            sums += np.where(tested[:, None], np.stack(parts, axis=1), 0.0)
        for layer, (z, phi, grad_phi, grad_z) in enumerate(
            squares.T for squares in net.unit_squares
        ):
            forward = phi - self.square * z
            backward = grad_z - self.square * grad_phi
            # Both share the signs of the units; off the forward part, the backward one adds news.
            norm = (forward**2).sum()
            backward -= forward * ((forward * backward).sum() / norm if norm > 0 else 0.0)
            for direction, difference in enumerate((forward, backward)):
                square = difference**2
                moments = (difference.sum(), square.sum(), (square**2).sum())
                self.differences[direction, layer] += moments

    def scores(self) -> dict[str, FloatArray]:
        """Family → normal score of each layer, shape (L + 1,), NaN where nothing is tested."""
        nothing = [math.nan]
        gain_square = self.plan.gain**2
        scores = []
        for nets, ratio, k2, k3 in np.moveaxis(self.ratios, -1, 1):
            tested = np.where(nets > 0, 1.0, np.nan)
            score = weighted_chi2_score(ratio / gain_square, nets, k2 * tested, k3 * tested)
            scores.append(np.concatenate((nothing, score)))
        for total, square, fourth in np.moveaxis(self.differences, -1, 1):
            square = np.where((square > 0) & np.any(self.square != 1), square, np.nan)
            score = sign_flip_score(total, square, fourth)
            scores.append(np.concatenate((nothing, score, nothing)))
        return dict(zip(FAMILIES, scores, strict=True))

    def gains(self) -> tuple[FloatArray, FloatArray]:
        """The gain of each weight layer, seen forward and seen backward, shape (L + 1,)."""
        nets, ratio = self.ratios[..., 0], self.ratios[..., 1]
        seen = np.sqrt(np.where(nets > 0, ratio, np.nan) / np.maximum(nets, 1))
        forward, backward = (np.concatenate(([math.nan], row)) for row in seen)
        return forward, backward

    def mean_logs(self) -> tuple[FloatArray, FloatArray]:
        """Mean rise of log q̂ since the input, and of the log gradient since the output."""
        alive = np.where(self.alive > 0, self.alive, np.nan)
        return self.log_q / alive, self.log_grad / alive

    def _check_range(self, net: NetSteps) -> None:
        logs = np.stack((net.log_q, net.log_grad))
        left = (np.isnan(logs) | np.isposinf(logs)).any(axis=(0, 2))
        if left.any():
            raise FloatingPointError(
                f"net {self.nets}: not finite in {self.plan.dtype} at layer "
                f"{int(np.flatnonzero(left)[0])}; if the initialization is meant to grow like "
                "this, use layerwise=True (no limit) or dtype=torch.float64."
            )
