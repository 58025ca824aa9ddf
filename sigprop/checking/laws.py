"""Which law the weights of a layer have: recognized from a menu, jointly for layers drawn alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sigprop.checking.facts import Facts
from sigprop.checking.shapes import SHAPES, Shape

OUTLIER = 4.0
"""|z| above which the law is not that of a layer."""
REJECTED = 1e-4
"""A law whose layers together have a smaller p-value, the outliers left aside, does not fit."""
WORST = 25.0
"""What a layer adds to the misfit of a law at most."""

_GAINS = (
    ("", 1.0), ("relu", math.sqrt(2)), ("tanh", 5 / 3), ("selu", 0.75),
    *((f"leaky relu {a:g}", math.sqrt(2 / (1 + a * a))) for a in (0.1, 0.2, 0.25)),
)  # fmt: skip
_CONSTANTS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0)


@dataclass(frozen=True)
class Law:
    """The law of the weights of one layer.

    Attributes:
        words: what it is called.
        std: of an entry; None: no law fits.
        shape: of the law, the nearest one where none fits.
    """

    words: str
    std: float | None
    shape: Shape

    @property
    def known(self) -> bool:
        """Whether a standard deviation is claimed."""
        return self.std is not None


Row = tuple[str, Callable[[Facts], float]]
"""A law of the menu: what it is called, and the standard deviation that it gives a weight."""


def _menu(ends: int) -> Iterator[tuple[Shape, Row]]:
    """Every law that is known, the usual ones first.

    Args:
        ends: branch ends of the model: two a block.
    """
    normal, uniform, cut = SHAPES.values()
    yield uniform, ("torch default", _fan_in(1 / math.sqrt(3)))
    for shape in (normal, uniform, cut):
        for word, gain in _GAINS:
            said = f"{shape.name}, fan_in{_with(word)}"
            yield shape, (f"kaiming {said}" if word else f"lecun {shape.name}", _fan_in(gain))
            said = f"{shape.name}, fan_out{_with(word or 'linear')}"
            yield shape, (f"kaiming {said}", _fan_out(gain))
            yield shape, (f"xavier {shape.name}{_with(word, '')}", _xavier(gain))
            said = f"kaiming {shape.name}, fan_in{_with(word or 'linear')} (of its use)"
            yield shape, (said, _used_fan_in(gain))
    yield uniform, ("uniform, ±1/√fan_out", _fan_out(1 / math.sqrt(3)))
    for std in _CONSTANTS:
        yield normal, (f"N(0, {std:g})", _constant(std))
        yield uniform, (f"uniform ±{std:g}", _constant(std / math.sqrt(3)))
        std_of_cut = std * math.sqrt(_cut_variance(cut))
        yield cut, (f"truncated N(0, {std:g})", _constant(std_of_cut))
    if ends:
        yield normal, ("N(0, 0.02/√(2·blocks))", _constant(0.02 / math.sqrt(ends)))


def _cut_variance(cut: Shape) -> float:
    """Variance of a normal law of variance one cut at two standard deviations."""
    return (2 / cut.bound) ** 2


def _with(word: str, usual: str = "relu") -> str:
    return "" if word == usual else f", gain of {word}"


def _fan_in(gain: float) -> Callable[[Facts], float]:
    return lambda facts: gain / math.sqrt(facts.fans[0]) if facts.fans[0] else 0.0


def _used_fan_in(gain: float) -> Callable[[Facts], float]:
    return lambda facts: gain / math.sqrt(facts.fan_in) if facts.fan_in else 0.0


def _fan_out(gain: float) -> Callable[[Facts], float]:
    return lambda facts: gain / math.sqrt(facts.fans[1]) if facts.fans[1] else 0.0


def _xavier(gain: float) -> Callable[[Facts], float]:
    return lambda facts: gain * math.sqrt(2 / sum(facts.fans)) if sum(facts.fans) else 0.0


def _constant(std: float) -> Callable[[Facts], float]:
    return lambda facts: std


# Recognizing


def laws_of(layers: Sequence[Facts], planned: Mapping[str, float] | None = None) -> dict[str, Law]:
    """The law of each layer whose weights may be independent draws, by its name.

    One law for all layers of an operation and parameter name; a role of theirs (branch ends, the
    head), or those of one name, that it does not fit may have one of their own. A minority of
    outliers does not change the law: it is they that are wrong.

    Args:
        layers: of one model.
        planned: the standard deviation that a plan gave a layer, by its name.
    """
    planned = planned or {}
    drawn = [layer for layer in layers if layer.drawn]
    ends = sum(layer.family[2] == "branch end" for layer in layers)
    menu = list(_menu(ends))
    found: dict[str, Law] = {}
    for _, family in _grouped(drawn, lambda layer: layer.family[:2]):
        told = [layer for layer in family if layer.name in planned]
        if told:
            shape = _nearest_shape(told)
            found |= {x.name: Law("as planned", planned[x.name], shape) for x in told}
        rest = [layer for layer in family if layer.name not in planned]
        found |= _recognized(rest, menu) if rest else {}
    return found


def _recognized(family: Sequence[Facts], menu: Sequence[tuple[Shape, Row]]) -> dict[str, Law]:
    """One law for a family, its roles and names where it does not fit."""
    common = _best(family, menu)
    found: dict[str, Law] = {}
    for _, members in _grouped(family, lambda layer: layer.family[2]):
        row = common if common and _fits(members, common) else _best(members, menu)
        if row is None or not _fits(members, row):
            shape = _nearest_shape(members)
            found |= {layer.name: Law("unknown", None, shape) for layer in members}
            row = None
        else:
            found |= {x.name: Law(row[1][0], row[1][1](x), row[0]) for x in members}
        for _, named in _grouped(members, lambda layer: layer.tail):
            own = _best(named, menu)
            alike = 1 < len(named) < len(members) and bool(named[0].tail)
            off = row is None or all(abs(z) > OUTLIER for z in _scores(named, row))
            if alike and off and own is not None and _fits(named, own):
                found |= {x.name: Law(own[1][0], own[1][1](x), own[0]) for x in named}
    return found


def _best(
    layers: Sequence[Facts], menu: Sequence[tuple[Shape, Row]]
) -> tuple[Shape, Row] | None:
    """The law of the menu with the smallest misfit."""
    misfits = [_misfit(layers, row) for row in menu]
    return menu[int(np.argmin(misfits))] if misfits else None


def _misfit(layers: Sequence[Facts], law: tuple[Shape, Row]) -> float:
    scales, shapes = _scores(layers, law), _shape_scores(layers, law[0])
    return float(np.minimum(scales**2, WORST).sum() + np.minimum(shapes**2, WORST).sum())


def _fits(layers: Sequence[Facts], law: tuple[Shape, Row]) -> bool:
    """Whether a law is that of all layers but a minority, in scale and in shape."""
    scales, shapes = _scores(layers, law), _shape_scores(layers, law[0])
    inside = scales[np.abs(scales) <= OUTLIER]
    if 2 * len(inside) <= len(scales) or 2 * (np.abs(shapes) > OUTLIER).sum() >= len(shapes):
        return False
    return bool(stats.chi2.sf(float((inside**2).sum()), len(inside)) >= REJECTED)


def _scores(layers: Sequence[Facts], law: tuple[Shape, Row]) -> np.ndarray:
    """z of the mean square of each layer under a law."""
    shape, (_, std) = law
    return np.array([_score(layer, std(layer), shape) for layer in layers])


def _score(layer: Facts, std: float, shape: Shape) -> float:
    if std <= 0:
        return math.inf
    return shape.quick_score(layer.mean_square / std**2, layer.count)


def _shape_scores(layers: Sequence[Facts], shape: Shape) -> np.ndarray:
    """z of the kurtosis of each layer, of those with few weights blunted by its bias."""
    seen = np.array([layer.kurtosis for layer in layers])
    count = np.array([layer.count for layer in layers], dtype=float)
    spread = np.sqrt(shape.kurtosis_variance / count + (10 / count) ** 2)
    return np.asarray((seen - shape.kurtosis) / spread)


def _nearest_shape(layers: Sequence[Facts]) -> Shape:
    def misfit(shape: Shape) -> float:
        return float(np.minimum(_shape_scores(layers, shape) ** 2, WORST).sum())

    return min(SHAPES.values(), key=misfit)


def _grouped(
    layers: Sequence[Facts], key: Callable[[Facts], object]
) -> Iterator[tuple[object, list[Facts]]]:
    groups: dict[object, list[Facts]] = {}
    for layer in layers:
        groups.setdefault(key(layer), []).append(layer)
    yield from groups.items()
