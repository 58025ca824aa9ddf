"""What an activation makes of a Gaussian signal that need not be centred: moments and slopes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from sigprop.activations import Activation, as_activation
from sigprop.gaussian import expectation
from sigprop.graph import Slopes
from sigprop.reading.call_records import leaky, slopes_of
from sigprop.theory.critical import CriticalPoint, solve_critical
from sigprop.theory.log_kernel import kernel_of


@dataclass(frozen=True)
class Response:
    """An activation at one second moment and mean of its input.

    Attributes:
        q: E φ(u)².
        mean: E φ(u).
        slope: E φ′(u)²: what a squared gradient is multiplied by.
        growth: d log E φ(u)² / d log E u² as the signal is scaled: what a small relative error of
            the second moment is multiplied by. 1 for the leaky family.
    """

    q: float
    mean: float
    slope: float
    growth: float


def respond(record: Activation, q: float, mean: float = 0.0) -> Response | None:
    """The response to u ~ N(mean, q − mean²); None: there is no rule for it.

    Example:
        >>> from sigprop.activations import activation
        >>> respond(activation("relu"), 2.0).q, round(respond(activation("relu"), 2.0, 1.0).q, 4)
        (1.0, 1.9247)
    """
    slopes = slopes_of(record)
    if slopes is not None:
        return leaky_response(slopes, q, mean, _mean_slope(record, slopes))
    if q <= 0 or not math.isfinite(q):
        return None
    return _respond(_Key(record), q, mean)


def composed(outer: Activation, inner: Activation, factor: float, shift: float) -> Activation:
    """φ_outer(factor·φ_inner(x) + shift) as one record.

    Raises:
        TypeError, ValueError: a function of one number it is not.
    """
    if inner.kind != "function" or outer.kind != "function":
        raise TypeError("a random or mixed activation is no function of one number")
    slopes, inner_slopes = slopes_of(outer), slopes_of(inner)
    if slopes is not None and inner_slopes is not None and shift == 0 and factor == 1:
        (outside,), (inside,) = slopes, inner_slopes
        return leaky((inside * outside if inside >= 0 else inside,))
    name = f"{inner.name}→{outer.name}"
    return as_activation(lambda x: outer.f(factor * inner.f(x) + shift), name=name)


def critical_point(record: Activation, bias_std: float) -> CriticalPoint:
    """The critical point of an activation; those of the table are kept."""
    return _critical_point(_Key(record), bias_std)


class _Key:
    """A record by what it is in the table, or by itself."""

    def __init__(self, record: Activation) -> None:
        self.record = record
        row = (record.row, tuple(sorted(record.parameters.items())))
        self._key: Any = row if record.row else id(record)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._key == other._key


@lru_cache(maxsize=1024)
def _critical_point(key: _Key, bias_std: float) -> CriticalPoint:
    return solve_critical(key.record, bias_std=bias_std)


@lru_cache(maxsize=4096)
def _respond(key: _Key, q: float, mean: float) -> Response | None:
    record = key.record
    if mean == 0:
        moments = kernel_of(record).moments
        at = np.asarray(q)
        v = float(moments.second_moment(at))
        slope = float(moments.derivative_square(at))
        growth = q * float(moments.slope(at)) / v if v > 0 else 0.0
        return Response(v, float(moments.mean(at)), slope, growth)
    if record.kind != "function":
        return None
    return _shifted(record, q - mean**2, mean)


def leaky_response(slopes: Slopes, q: float, mean: float, mean_slope: float) -> Response:
    """The same in closed form; of several slopes the mean over channels.

    Source: he2015 (mean 0: q(1+α²)/2).
    """
    square = sum(alpha * alpha for alpha in slopes) / len(slopes)
    if mean == 0:
        half = math.sqrt(q / (2 * math.pi))
        return Response(q * ((1 + square) / 2), (1 - mean_slope) * half, (1 + square) / 2, 1.0)
    std = math.sqrt(max(q - mean**2, 0.0))
    share, density = (1.0 if mean > 0 else 0.0), 0.0
    if std > 0:
        share = math.erfc(-mean / std / math.sqrt(2)) / 2
        density = math.exp(-((mean / std) ** 2) / 2) / math.sqrt(2 * math.pi)
    above = q * share + mean * std * density
    centre = mean * share + std * density
    return Response(
        above + square * (q - above),
        centre + mean_slope * (mean - centre),
        share + square * (1 - share),
        1.0,
    )


def _mean_slope(record: Activation, slopes: Slopes) -> float:
    """E α: of random slopes not the number that stands for E α²."""
    if record.kind == "random":
        ends = [record.parameters[end] for end in ("lower", "upper")]
        return sum(float(end) for end in ends if not isinstance(end, tuple)) / 2
    return sum(slopes) / len(slopes)


def _shifted(record: Activation, variance: float, mean: float) -> Response:
    f, df = record.f, record.df
    if variance <= 0:
        at = np.array([mean])
        value, slope = float(f(at)[0]), float(df(at)[0])
        growth = mean * slope / value if value else 0.0
        return Response(value**2, value, slope**2, growth)
    breaks = [point - mean for point in record.breakpoints]

    def integral(function: Any) -> float:
        return float(expectation(lambda z: function(z + mean), variance, breakpoints=breaks))

    v = integral(lambda u: f(u) ** 2)
    growth = 0.0
    if v > 0 and not any(record.jumps):
        growth = integral(lambda u: u * f(u) * df(u)) / v
    elif v > 0:
        wider = _shifted_second_moment(record, variance, mean, 1 + 1e-4)
        growth = math.log(wider / v) / math.log1p(1e-4)
    return Response(v, integral(f), integral(lambda u: df(u) ** 2), growth)


def _shifted_second_moment(
    record: Activation, variance: float, mean: float, factor: float
) -> float:
    """E φ² with the whole signal's second moment times a factor."""
    mean = mean * math.sqrt(factor)
    breaks = [point - mean for point in record.breakpoints]
    return float(
        expectation(lambda z: record.f(z + mean) ** 2, variance * factor, breakpoints=breaks)
    )
