"""Layer after layer for a grid of nets; slow nets advance by many layers at once.

State: x = log q and δ = 1 − c. One layer: x' = x + L(x), log δ' = log δ + log(g²·R·q/q').
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sigprop.theory.fixed_points import NetGrid
from sigprop.theory.leaky import trajectory as leaky_trajectory
from sigprop.theory.path import Trajectory
from sigprop.theory.roots import Array

WALKED = 2000  # layers taken one by one before leaps
NOISE = 3e-14  # changes below this are rounding where many layers are taken at once
TABLE_NOISE = 3e-11  # the same for log(1 − c) from tiles
LEAP = 0.01  # a leap changes a rate of change by this share
REST = 3e-15  # a change of log q or of log(1 − c) below this is rounding


def first_layer(cells: NetGrid, q0: float, c0: float | None) -> tuple[Array, Array | None]:
    """Log q and 1 − c of layer 1, which no activation precedes."""
    through = cells.log_weight + math.log(q0)
    x = np.logaddexp(through, cells.log_bias)
    return x, None if c0 is None else (1 - c0) * np.exp(through - x)


def one_layer(
    cells: NetGrid, part: Array | slice, x: Array, deficit: Array | None
) -> tuple[Array, Array | None]:
    """Log q and 1 − c of the next layer."""
    lift = cells.lift(x, part)
    with np.errstate(invalid="ignore"):
        after = np.where(np.isinf(x), x, x + lift)
    if deficit is None:
        return after, None
    at = np.clip(x, -1e300, 1e300)
    factor = _factor(cells, part, at, np.where(np.isfinite(lift), lift, 0.0), deficit)
    return after, np.minimum(deficit * factor, 2.0)


def _factor(cells: NetGrid, part: Array | slice, x: Array, lift: Array, deficit: Array) -> Array:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        log_r = cells.kernel.log_r(x, np.maximum(deficit, 1e-300))
        factor = np.exp(cells.log_weight[part] + log_r - lift)
    return np.asarray(np.where(np.isfinite(factor), factor, 0.0))


def layers(
    cells: NetGrid, shape: tuple[int, ...], depth: int, q0: float, c0: float | None
) -> Trajectory:
    """Every layer of every net."""
    known = _straight(cells, shape, depth, q0, c0)
    if known is not None:
        return known
    log_q = np.empty((depth + 1, len(cells)))
    log_q[0] = math.log(q0)
    x, deficit = first_layer(cells, q0, c0)
    deficits = None if deficit is None else np.empty_like(log_q)
    if deficits is not None and deficit is not None and c0 is not None:
        deficits[0], deficits[1] = 1 - c0, deficit
    log_q[1] = x
    moving = np.arange(len(cells))
    for layer in range(2, depth + 1):
        log_q[layer] = log_q[layer - 1]
        before = None
        if deficits is not None:
            deficits[layer] = deficits[layer - 1]
            before = deficits[layer - 1, moving]
        x, after = one_layer(cells, moving, log_q[layer - 1, moving], before)
        log_q[layer, moving] = x
        rest = _at_rest(log_q[layer - 1, moving], x)
        if deficits is not None and after is not None and before is not None:
            deficits[layer, moving] = after
            rest &= np.abs(after - before) <= REST * after
        if rest.any():
            moving = moving[~rest]
            if not moving.size:
                log_q[layer + 1 :] = log_q[layer]
                if deficits is not None:
                    deficits[layer + 1 :] = deficits[layer]
                break
    chi = cells.chi(log_q[-1]).reshape(shape)
    full = (depth + 1, *shape)
    return Trajectory(
        log_q.reshape(full),
        None if deficits is None else deficits.reshape(full),
        float(chi) if shape == () else chi,  # type: ignore[arg-type]
    )


def _straight(
    cells: NetGrid, shape: tuple[int, ...], depth: int, q0: float, c0: float | None
) -> Trajectory | None:
    """One net of two straight pieces: the closed forms of ``theory.leaky``."""
    alpha = cells.kernel.activation.parameters.get("alpha")
    name = cells.kernel.activation.name
    alpha = {"relu": 0.0, "identity": 1.0}.get(name, alpha)
    if shape != () or name not in ("relu", "identity", "leaky_relu", "prelu") or alpha is None:
        return None
    axis = None if np.ndim(alpha) == 0 else 0
    gain, bias = math.exp(cells.log_weight[0] / 2), math.exp(cells.log_bias[0] / 2)
    return leaky_trajectory(depth, gain, alpha, q0=q0, c0=c0, bias_std=bias, channel_axis=axis)


def _at_rest(x: Array, after: Array) -> Array:
    with np.errstate(invalid="ignore"):
        small = np.abs(after - x) <= REST * np.maximum(1.0, np.abs(x))
    return np.asarray((x == after) | small)


def last_layer(cells: NetGrid, depth: int, x: Array, deficit: Array | None) -> tuple[Array, Any]:
    """Log q and 1 − c at layer ``depth``, from those of layer 1."""
    moving, layer = np.arange(len(cells)), 1
    x, delta = x.copy(), np.zeros_like(x) if deficit is None else deficit.copy()
    while layer < min(depth, WALKED) and moving.size:
        before = x[moving], delta[moving]
        x[moving], after = one_layer(
            cells, moving, before[0], None if deficit is None else before[1]
        )
        rest = _at_rest(before[0], x[moving])
        if after is not None:
            delta[moving] = after
            rest &= np.abs(after - before[1]) <= REST * after
        moving, layer = moving[~rest], layer + 1
    if moving.size and layer < depth:
        _leap(cells, moving, depth - layer, x, delta, deficit is not None)
    return x, delta


def _leap(cells: NetGrid, moving: Array, left: int, x: Array, delta: Array, two: bool) -> None:
    """Advance slow nets by H layers at once, H as large as the rate of change allows.

    Three stages match the H-fold composition of a map to third order in H times its change, in any
    number of variables (here x and log δ).
    """
    togo = np.full(len(moving), float(left))
    noise = np.array([[NOISE], [NOISE if cells.kernel.closed else TABLE_NOISE]])
    while moving.size:
        state = np.array([x[moving], np.log(np.maximum(delta[moving], 1e-305))])

        def change(state: Array, part: Array = moving) -> Array:
            lift = cells.lift(state[0], part)
            lift = np.where(np.isfinite(lift), lift, 0.0)
            if not two:
                return _heard(np.array([lift, np.zeros_like(lift)]), noise)
            deficit = np.minimum(np.exp(state[1]), 2.0)
            factor = _factor(cells, part, state[0], lift, deficit)
            return _heard(np.array([lift, np.log(np.maximum(factor, 1e-300))]), noise)

        k1 = change(state)
        k2 = change(state + k1)
        h = _stride(k1, k2, togo)
        after = _composed(change, state, k1, k2, h)
        x[moving] = after[0]
        if two:
            with np.errstate(under="ignore"):
                delta[moving] = np.where(
                    (after[1] <= -700) | (delta[moving] == 0),
                    0.0,
                    np.minimum(np.exp(after[1]), 2.0),
                )
        togo = togo - h
        dead = (delta[moving] == 0) if two else True
        # At c* = 0 two tiles meet, which differ by their error: 1 − c hops between them.
        hops = (np.abs(state[1]) < 1e-7) & (np.abs(k1[1]) < 1e-9)
        still = (k1[0] == 0) & ((k1[1] == 0) | hops | dead)
        keep = (togo >= 1) & ~still
        moving, togo = moving[keep], togo[keep]


def _heard(change: Array, noise: Array) -> Array:
    return np.where(np.abs(change) < noise, 0.0, change)


def _stride(k1: Array, k2: Array, togo: Array) -> Array:
    """How many layers to take at once, from the changes of two layers in a row."""
    size = np.abs(k1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = np.where(size > REST, np.abs(k2 - k1) / size, 0.0)
    largest = np.maximum(np.where(rates < 1e-13, 0.0, size).max(axis=0), 1e-300)
    rate = rates.max(axis=0)
    rate = np.maximum(rate, 1e-300)
    bold = np.minimum(1e-10 / largest, 0.3 / rate)  # a net that barely moves may take more
    h = np.maximum(np.minimum(LEAP / rate, 0.1 / largest), bold)
    h = np.where(rate < 1e-13, togo, h)  # straight
    return np.asarray(np.maximum(np.floor(np.minimum(h, togo)), 1.0))


def _composed(change: Any, state: Array, k1: Array, single: Array, h: Array) -> Array:
    """The state after h layers: exact for h = 1 and 2, third order beyond."""
    s = np.maximum(h - 1, 1.0)
    m = (2 * h - 1) / (6 * s)
    w2, w3 = 2 - 4 * m, 2 * m - 0.5
    k2 = change(state + k1 * s / 2)
    d = (h - 2) / (3 * w3)
    k3 = change(state + (s - d) * k1 + d * k2)
    leap = state + h * ((1 - w2 - w3) * k1 + w2 * k2 + w3 * k3)
    return np.asarray(np.where(h == 1, state + k1, np.where(h == 2, state + k1 + single, leap)))
