"""What is narrow beside its distance from 0: a dense scan against the polynomials of the panels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from sigprop.checks import FloatArray
from sigprop.gaussian.mesh import Function, Panels, call, interpolant

_DENSE = 2048  # points an octave, each side
_OCTAVES = 24  # below the reach
_OFF = 1e-9  # of |f|: a point so far off the polynomial of its panel was missed
_FAINT = 1e-20  # of the largest |f| within reach: what is smaller need not be seen
_ROUNDS, _MOST = 6, 60
_GROWTH = 4.0  # of panels away from a feature


def seen(
    f: Function, resolved: Callable[[FloatArray], Panels], given: FloatArray, reach: float
) -> tuple[Panels, FloatArray]:
    """A mesh that agrees with f at all points of a dense scan, and the ends added for that.

    The scan has 2048 random points an octave on either side, over 24 octaves below ``reach``; of
    what is narrower than the gaps between them, a part is missed.

    Args:
        f: the function.
        resolved: from panel ends to a mesh.
        given: ends to start from.
        reach: how far from 0 to look.
    """
    added = np.zeros(0)
    for _ in range(_ROUNDS):
        mesh = resolved(np.union1d(given, added))
        if not mesh.resolved:
            break
        missed = _missed(f, mesh, reach)
        if not missed.size:
            break
        around = [_around(f, mesh, float(place)) for place in missed[:_MOST]]
        added = np.union1d(added, np.concatenate(around))
    return mesh, added


def features(mesh: Panels, kinks: FloatArray, reach: float) -> FloatArray:
    """Panel ends about the places where a mesh is fine beside the distance from 0, but for kinks.

    Args:
        mesh: the mesh.
        kinks: breakpoints: a mesh is fine about them, and they are ends of panels in any case.
        reach: how far from 0.
    """
    place, width = mesh.deep_places, mesh.deep_widths
    apart = np.abs(place[:, None] - kinks).min(axis=1, initial=np.inf)
    chosen = (apart > 4 * width) & (np.abs(place) < reach)
    order = np.argsort(width[chosen], kind="stable")
    place, width = place[chosen][order], width[chosen][order]
    ends: list[FloatArray] = []
    while place.size and len(ends) < _MOST:
        ends.append(_grown(place[0], width[0]))
        far = np.abs(place - place[0]) > np.maximum(64 * width[0], 4 * width)
        place, width = place[far], width[far]
    return np.unique(np.concatenate([np.zeros(0), *ends]))


def _grown(place: float, width: float) -> FloatArray:
    """Ends at a place and at distances that grow from a width to the distance from 0."""
    most = int(np.log(abs(place) / width) / np.log(_GROWTH))
    steps = width * _GROWTH ** np.arange(most)
    ends: FloatArray = np.concatenate([[place], place - steps, place + steps])
    return ends


@cache
def _scan() -> FloatArray:
    """Random points in (2^-24, 1), dense in every octave."""
    steps = np.arange(_DENSE * _OCTAVES)
    inside = np.random.default_rng(0).uniform(size=steps.size)
    return np.exp2(-(steps + inside)[::-1] / _DENSE)


def _off(f: Function, mesh: Panels, x: FloatArray) -> FloatArray:
    """|f − polynomial of the panel| over the largest |f| up to a little further, x by |x|."""
    values = call(f, x)
    size = np.maximum.accumulate(np.abs(values))
    size = np.append(size[_DENSE // 8 :], np.full(_DENSE // 8, size[-1]))
    size = np.maximum(size, _FAINT * size[-1])
    there, peak = interpolant(f, mesh.edges, x)
    with np.errstate(all="ignore"):
        off: FloatArray = np.abs(values - there) / np.maximum(np.maximum(size, peak), 1e-300)
    return off


def _missed(f: Function, mesh: Panels, reach: float) -> FloatArray:
    """One point in each run of points that the mesh does not explain."""
    found = []
    for side in (-1.0, 1.0):
        x = side * reach * _scan()
        off = _off(f, mesh, x)
        at = np.flatnonzero(off > _OFF)
        for run in np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if at.size else []:
            found.append((float(off[run].max()), float(x[run[off[run].argmax()]])))
    return np.array([place for _, place in sorted(found, reverse=True)])


def _around(f: Function, mesh: Panels, place: float) -> FloatArray:
    """Ends at a place and, growing from the width of what is there, on both sides of it."""
    steps = abs(place) * np.exp2(-np.arange(1.0, 50.0))[::-1]
    size = max(abs(float(call(f, np.array([place]))[0])), 1e-300)
    off = np.zeros(steps.size, dtype=bool)
    for side in (-1.0, 1.0):
        x = place + side * steps
        off |= np.abs(call(f, x) - interpolant(f, mesh.edges, x)[0]) > _OFF * size
    width = steps[int(np.argmin(off))] if not off.all() else steps[-1]
    return _grown(place, width)
