"""Paired comparisons over seeds: mean difference, its interval, and p-values for many claims."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from sigprop.records import Row


def compare(pairs: Sequence[tuple[Row, np.ndarray, np.ndarray]], level: float = 0.95) -> list[Row]:
    """One row a claim "these two differ": Student's t over seeds, Holm's correction over all.

    Args:
        pairs: a head for the row and two arrays, one entry a seed, in the same order of seeds.
        level: of the interval of each mean difference (not corrected).

    Returns:
        The heads with ``difference`` (second less first), ``half_width`` of its interval,
        ``p_single`` and ``p_value``, corrected for the number of claims: at any true state of
        affairs the chance that a p_value of a true null falls below p is at most p.

    Example:
        >>> first, second = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.7, 0.6])
        >>> (row,) = compare([({"what": "b - a"}, first, second)])
        >>> round(row["difference"], 3), round(row["p_value"], 3)
        (0.4, 0.02)
    """
    rows = []
    for head, first, second in pairs:
        gap = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
        if gap.ndim != 1 or gap.size < 2 or not np.isfinite(gap).all():
            raise ValueError(f"a paired claim needs two or more finite pairs; got {gap}.")
        error = gap.std(ddof=1) / np.sqrt(gap.size)
        t = abs(gap.mean()) / error if error > 0 else (np.inf if gap.any() else 0.0)
        single = 2 * stats.t.sf(t, gap.size - 1)
        rows.append(
            head
            | {
                "difference": float(gap.mean()),
                "half_width": float(stats.t.isf((1 - level) / 2, gap.size - 1) * error),
                "seeds": gap.size,
                "p_single": float(single),
            }
        )
    corrected = holm(np.array([row["p_single"] for row in rows]))
    return [row | {"p_value": p} for row, p in zip(rows, corrected.tolist(), strict=True)]


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction: the familywise p-value of every claim, in the order given.

    Example:
        >>> holm(np.array([0.01, 0.5, 0.02])).tolist()
        [0.03, 0.5, 0.04]
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(np.sort(p) * np.arange(len(p), 0, -1))
    out = np.empty(len(p))
    out[order] = np.minimum(stepped, 1.0)
    return out
