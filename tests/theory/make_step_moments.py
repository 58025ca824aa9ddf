"""Makes step_moments.json: mean and variance of log S to 20 digits, n units, slope α.

Up to n = 10 from the law itself: k ~ Binomial(n, ½) positive units and S = (χ²_n/n)·(B + α²(1−B))
with B ~ Beta(k/2, (n−k)/2) independent of χ²_n. Beyond, from the Laplace integral in t at 30 digits
(tanh-sinh, not the trapezoid rule). α = 0 is given S > 0, from the mixture of χ² at every n.
Run: python -m tests.theory.make_step_moments (a few seconds).
"""

import json
from pathlib import Path

import mpmath as mp

WIDTHS = (1, 2, 3, 10, 62, 100, 10_000)
SLOPES = ("1e-6", "0.01", "0.2", "0.5", "-0.5", "2", "0")
PATH = Path(__file__).with_name("step_moments.json")


def beta_logs(k, n, alpha):
    """E and E of the square of log(B + α²(1−B))."""
    square = alpha**2
    if k in (0, n):
        value = mp.log(square) if k == 0 else mp.mpf(0)
        return value, value**2
    norm = 2 / mp.beta(mp.mpf(k) / 2, mp.mpf(n - k) / 2)
    edge = mp.atan(abs(alpha))  # where B and α²(1−B) balance
    ends = sorted({mp.mpf(0), edge / 30, edge, min(30 * edge, mp.pi / 4), mp.pi / 2})

    def moment(power):
        return norm * mp.quad(
            lambda v: (
                mp.sin(v) ** (k - 1)
                * mp.cos(v) ** (n - k - 1)
                * mp.log(mp.sin(v) ** 2 + square * mp.cos(v) ** 2) ** power
            ),
            ends,
        )

    return moment(1), moment(2)


def mixture(n, alpha):
    first = second = mp.mpf(0)
    for k in range(n + 1):
        weight = mp.binomial(n, k) / mp.mpf(2) ** n
        one, two = beta_logs(k, n, alpha)
        first, second = first + weight * one, second + weight * two
    half = mp.mpf(n) / 2
    mean = mp.digamma(half) - mp.log(half) + first
    return mean, mp.polygamma(1, half) + second - first**2


def survivors(n):
    total = first = second = mp.mpf(0)
    for k in range(1, n + 1):
        weight = mp.exp(mp.loggamma(n + 1) - mp.loggamma(k + 1) - mp.loggamma(n - k + 1))
        if n > 1000 and abs(k - n / 2) > 15 * n**0.5:
            continue  # below e^−450 of the weight at the middle
        own = mp.digamma(mp.mpf(k) / 2) + mp.log(mp.mpf(2) / n)
        total, first = total + weight, first + weight * own
        second += weight * (own**2 + mp.polygamma(1, mp.mpf(k) / 2))
    return first / total, second / total - (first / total) ** 2


def laplace(n, alpha):
    mean = (1 + alpha**2) / 2

    def gap(t):
        up, down = (1 / mp.sqrt(1 + 2 * s * t / (n * mean)) for s in (mp.mpf(1), alpha**2))
        return mp.exp(-t) - ((up + down) / 2) ** n

    ends = [0, *(mp.mpf(10) ** p for p in (-6, -3, -1, 0, 1, 2, 4, 8)), mp.inf]
    first = mp.quad(lambda t: gap(t) / t, ends)
    square = -2 * mp.quad(lambda t: (mp.log(t) + mp.euler) * gap(t) / t, ends)
    return mp.log(mean) + first, square - first**2


def entry(n, text):
    alpha = mp.mpf(text)
    if alpha == 0:
        return survivors(n)
    return mixture(n, alpha) if n <= 10 else laplace(n, alpha)


def rows(widths=WIDTHS, slopes=SLOPES):
    with mp.workdps(30):
        made = [(n, text, *entry(n, text)) for n in widths for text in slopes]
        return [
            {"width": n, "alpha": text, "mean": mp.nstr(mean, 20), "variance": mp.nstr(var, 20)}
            for n, text, mean, var in made
        ]


if __name__ == "__main__":
    PATH.write_text(json.dumps(rows(), indent=1) + "\n", encoding="utf-8")
