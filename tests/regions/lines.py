"""A plain counter of breakpoints on a segment, in floating point: for statistics, not for ties."""

import numpy as np


def breakpoints(weights, biases, slopes, a, b):
    """Kinks of every layer's units between a and b, (L,): each layer is linear between its knots.

    A unit that leaves or enters zero where all below it die has no kink of its own there.
    """
    h = np.stack([a, b]).astype(np.float64)
    t = np.array([0.0, 1.0])
    counts = []
    for w, bias, slope in zip(weights, biases, slopes, strict=True):
        z = h @ w.T + bias
        left, right = z[:-1], z[1:]
        piece, unit = np.nonzero(
            ((left < 0) & (right > 0) | (left > 0) & (right < 0)) & (np.asarray(slope) != 1)
        )
        counts.append(len(unit))
        share = left[piece, unit] / (left[piece, unit] - right[piece, unit])
        new = left[piece] + share[:, None] * (right[piece] - left[piece])
        new[np.arange(len(unit)), unit] = 0.0
        t = np.concatenate([t, t[piece] + share * (t[piece + 1] - t[piece])])
        order = np.argsort(t)
        t, z = t[order], np.concatenate([z, new])[order]
        h = np.where(z > 0, z, slope * z)
    return np.array(counts)


def random_net(rng, input_dim, widths, gains, stds):
    """Gaussian weights of variance gain²/fan_in and biases of the given deviations."""
    fans = [input_dim, *widths[:-1]]
    weights = [
        rng.standard_normal((n, m)) * g / np.sqrt(m)
        for m, n, g in zip(fans, widths, gains, strict=True)
    ]
    return weights, [s * rng.standard_normal(n) for n, s in zip(widths, stds, strict=True)]
