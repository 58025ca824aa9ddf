"""The law of an activation step for any function φ, for ``validate`` outside the leaky family.

Given what entered a layer, its pre-activations are over units i.i.d. normal with a known covariance
K over the inputs of the batch. So mean φ(z_b)² over units has exactly the expectation V(K_bb) and,
over pairs of inputs, a covariance that a Hermite series gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from sigprop.activations import Activation, Function
from sigprop.checks import FloatArray
from sigprop.gaussian import expectation

NODES = 96
ORDER = 32
"""Nodes and terms of the series for covariances, which enter only the spread of a statistic."""
WIDE = 4.0
"""Second moment beyond which the features of φ are narrow, and the nodes must be close."""
CLOSE_NODES = 2001
RESOLVED = 1e3
"""Second moment up to which close nodes resolve features of size one."""


class _NormalNodes:
    """Nodes of a normal law, their weights, and the normalized Hermite polynomials there."""

    def __init__(self, nodes: FloatArray, weights: FloatArray) -> None:
        self.nodes, self.weights = nodes, weights / weights.sum()
        basis = [np.ones(len(nodes)), nodes]
        for n in range(1, ORDER):
            basis.append((nodes * basis[n] - np.sqrt(n) * basis[n - 1]) / np.sqrt(n + 1))
        self.basis = np.stack(basis, axis=1) * self.weights[:, None]


@cache
def _rule(wide: bool) -> _NormalNodes:
    """Gauss–Hermite; for narrow features the trapezoidal rule, which misses none of them."""
    if not wide:
        return _NormalNodes(*np.polynomial.hermite_e.hermegauss(NODES))
    nodes = np.linspace(-10, 10, CLOSE_NODES)
    return _NormalNodes(nodes, np.exp(-(nodes**2) / 2))


class FunctionLaw:
    """Moments of φ and of φ² over pairs of inputs.

    Args:
        activation: a record of kind ``"function"``.
    """

    def __init__(self, activation: Activation) -> None:
        self.activation = activation
        self._known: dict[tuple[tuple[int, ...], bytes], FloatArray] = {}
        """Second moments that were integrated; the same layers are asked for several times."""

    def second_moment(self, q: FloatArray) -> FloatArray:
        """V(q) = E φ(√q z)², any shape."""
        kernels = self.activation.kernels
        if kernels is not None and kernels.second_moment is not None:
            return np.asarray(kernels.second_moment(q))
        key = (np.shape(q), np.asarray(q, np.float64).tobytes())
        if key not in self._known:
            self._known[key] = self._moment(self.activation.f, q)
        return self._known[key]

    def slope_moment(self, q: FloatArray) -> FloatArray:
        """E φ′(√q z)², any shape."""
        return self._moment(self.activation.df, q)

    def _moment(self, f: Function, q: FloatArray) -> FloatArray:
        points = self.activation.breakpoints
        return np.asarray(expectation(lambda x: f(x) ** 2, q, breakpoints=points))

    def overlap(self, q: FloatArray, cosines: FloatArray) -> FloatArray:
        """Correlation E φ(u)φ(v)/√(V V′) of every pair of inputs, shape (…, B, B)."""
        kernels = self.activation.kernels
        if kernels is not None and kernels.covariance is not None:
            root = np.sqrt(self.second_moment(q))
            pair = kernels.covariance(q[..., :, None], q[..., None, :], cosines)
            return np.asarray(pair / (root[..., :, None] * root[..., None, :]))
        values, rule = self._at_nodes(q)
        values = values / np.sqrt((values**2) @ rule.weights)[..., None]
        return _series(values, rule, cosines)

    def square_covariance(self, q: FloatArray, cosines: FloatArray) -> FloatArray:
        """Cov(φ(u)², φ(v)²)/(V V′) of every pair of inputs, shape (…, B, B)."""
        squares, rule = self._squares(q)
        return _series(squares, rule, cosines) - 1

    def square_overlap(self, q: FloatArray, cosines: FloatArray) -> FloatArray:
        """Cov(φ(u)²/V, v²/q) of every pair of inputs, shape (…, B, B): one term of the series."""
        squares, rule = self._squares(q)
        second = squares @ rule.basis[:, 2]
        return np.asarray(np.sqrt(2) * second[..., :, None] * cosines**2)

    def square_third_moment(self, q: FloatArray) -> FloatArray:
        """E(φ² − V)³/V³, the third cumulant of one unit, of the shape of q."""
        squares, rule = self._squares(q)
        return np.asarray((squares - 1) ** 3 @ rule.weights)

    def log_moments(
        self,
        q: FloatArray,
        cosines: FloatArray,
        widths: Sequence[int],
        gain: float,
        bias_std: float,
    ) -> tuple[FloatArray, FloatArray]:
        """Mean and variance, over nets, of the batch mean of log q̂, to first order in 1/width.

        Each layer adds the covariance of its φ² over the inputs, and passes on what came before by
        the logarithmic slope of the variance map; the mean is moved by its curvature and by that
        of the logarithm.

        Args:
            q: mean-field second moments, shape (L + 1, B); layer 0 is the input.
            cosines: of the inputs, shape (B, B).
            widths: n_1 … n_L.
            gain: of the weights.
            bias_std: of the biases.

        Returns:
            Shift of the mean of log q̂ against log q, and variance, each of shape (L + 1,).
        """
        shifts, variances = [0.0], [0.0]
        shift, single, shared = np.zeros(q.shape[1]), np.zeros(q.shape[1]), 0.0
        moments, slopes, bends = self._log_slopes(q[1:], gain, bias_std)
        entering = gain**2 * np.concatenate([q[:1], moments])
        for layer, (n, here) in enumerate(zip(widths, q[1:], strict=True)):
            root, rest = np.sqrt(entering[layer] / here), bias_std / np.sqrt(here)
            cosines = np.clip(np.outer(root, root) * cosines + np.outer(rest, rest), -1, 1)
            shifts.append(float(shift.mean()) - 1 / n)
            variances.append(shared + 2 * float((cosines**2).mean()) / n)
            share = entering[layer + 1] / (entering[layer + 1] + bias_std**2)
            slope, bend = slopes[layer], bends[layer]
            covariance = self.square_covariance(here, cosines) / n
            noise = np.diagonal(covariance)
            shift = slope * shift + bend * single / 2 - share**2 * noise / 2
            single = slope**2 * single + share**2 * noise
            shared = float(slope.mean()) ** 2 * shared
            shared += float((np.outer(share, share) * covariance).mean())
            cosines = self.overlap(here, cosines)
        return np.array(shifts), np.array(variances)

    def _log_slopes(self, q: FloatArray, gain: float, bias_std: float) -> tuple[FloatArray, ...]:
        """V(q), and first and second derivative of log q′ by log q, by central differences."""
        step = 1e-2
        scales = np.exp(step * np.array([-1.0, 0.0, 1.0])).reshape(3, *(1,) * q.ndim)
        moments = self.second_moment(scales * q)
        below, here, above = np.log(gain**2 * moments + bias_std**2)
        slope, bend = (above - below) / (2 * step), (above - 2 * here + below) / step**2
        return moments[1], slope, bend

    def _squares(self, q: FloatArray) -> tuple[FloatArray, _NormalNodes]:
        """φ²/V at the nodes."""
        values, rule = self._at_nodes(q)
        squares = values**2
        with np.errstate(invalid="ignore"):  # a dead input
            return squares / (squares @ rule.weights)[..., None], rule

    def _at_nodes(self, q: FloatArray) -> tuple[FloatArray, _NormalNodes]:
        rule = _rule(bool(np.max(q, initial=0.0) > WIDE))
        return self.activation.f(np.sqrt(q)[..., None] * rule.nodes), rule


def _series(values: FloatArray, rule: _NormalNodes, cosines: FloatArray) -> FloatArray:
    """Σ aₙ a′ₙ cⁿ (Mehler), what is left of the norm at the last power."""
    terms = values @ rule.basis
    rest = np.sqrt(np.maximum((values**2) @ rule.weights - (terms**2).sum(axis=-1), 0.0))
    total = rest[..., :, None] * rest[..., None, :]
    for n in range(ORDER, -1, -1):
        total = total * cosines + terms[..., :, None, n] * terms[..., None, :, n]
    return np.asarray(total)
