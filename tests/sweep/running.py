"""Sweeps without a bar, and what they found."""

from sigprop import sweep


def here(function, cases, **rest):
    """In this process."""
    return sweep.run(function, cases, workers=0, progress=False, **rest)


def quietly(function, cases, **rest):
    """Wherever it is asked to run."""
    return sweep.run(function, cases, progress=False, **rest)


def values(result):
    """The one number of every finished case."""
    return [row["value"] for row in result.records()]
