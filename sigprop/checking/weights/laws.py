"""Which law the weights of a layer have: recognized from a menu, jointly for layers drawn alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from sigprop.checking.weights.facts import SAMPLE, Facts
from sigprop.checking.weights.shapes import SHAPES, Distribution
from sigprop.graph import Graph

OUTLIER = 4.0
"""|z| above which the law is not that of a layer."""
REJECTED = 1e-4
"""A law whose layers together have a smaller p-value, the outliers left aside, does not fit."""
WORST = 25.0
"""What a layer adds to the misfit of a law at most."""
UNUSUAL = 4.0
"""What the misfit of a law that is seldom used must be smaller by."""
ALIKE = 3
"""Layers that must be alike for one of them to stand out."""
NEAR = 1.25
"""Fewer layers than that, of no law of their own, are off the common law if it is so near."""
RELU = math.sqrt(2)
"""The gain of ReLU."""
LEAKY = "leaky relu "
"""Begins the names of gains of leaky ReLU; the slope follows."""


@dataclass(frozen=True)
class WeightLaw:
    """The law of the weights of one layer.

    Attributes:
        words: what it is called.
        std: of an entry; None: no law fits.
        shape: of the law, the nearest one where none fits.
    """

    words: str
    std: float | None
    shape: Distribution

    @property
    def known(self) -> bool:
        """Whether a standard deviation is claimed."""
        return self.std is not None


@dataclass(frozen=True)
class Candidate:
    """A law of the menu.

    Attributes:
        words: what it is called.
        shape: of the law.
        std: that it gives the weight of a layer.
        usual: whether libraries draw by it.
    """

    words: str
    shape: Distribution
    std: Callable[[Facts], float]
    usual: bool = True


def menu(gains: Mapping[str, float], ends: int) -> list[Candidate]:
    """Every law that is known, the usual ones first.

    Args:
        gains: of the activations of the model as ``torch.nn.init.calculate_gain`` has them, by
            name; those of linear maps and of ReLU are asked for in any case.
        ends: branch ends of the model: two a block.
    """
    normal, uniform, cut = SHAPES.values()
    found = [Candidate("torch default", uniform, _torch_default)]
    for shape in (normal, uniform, cut):
        name = shape.name
        found += [
            Candidate(f"kaiming {name}, fan_in", shape, _fan_in(RELU)),
            Candidate(f"kaiming {name}, fan_out", shape, _fan_out(RELU)),
            Candidate(f"xavier {name}", shape, _xavier(1.0)),
            Candidate(f"lecun {name}", shape, _fan_in(1.0)),
        ]
    found.append(Candidate("N(0, 0.02)", normal, _constant(0.02)))
    if ends:
        std = 0.02 / math.sqrt(ends)
        found.append(Candidate("N(0, 0.02/√(2·blocks))", normal, _constant(std)))
    found.append(Candidate("truncated N(0, 0.02)", cut, _constant(0.02 * 2 / cut.bound)))
    found += [replace(row, usual=False) for row in _seldom(gains)]
    return found


def _seldom(gains: Mapping[str, float]) -> Iterator[Candidate]:
    """Laws that are seldom drawn by."""
    normal, uniform, cut = SHAPES.values()
    for shape in (normal, uniform, cut):
        name = shape.name
        for word, gain in gains.items():
            slope = word.removeprefix(LEAKY)
            which = f"fan_in, gain of {word}" if slope == word else f"g*({slope})"
            yield Candidate(f"kaiming {name}, {which}", shape, _fan_in(gain))
            yield Candidate(f"xavier {name}, gain of {word}", shape, _xavier(gain))
        yield Candidate(f"xavier {name}, gain of relu", shape, _xavier(RELU))
        yield Candidate(f"{name}, 1/fan_out", shape, _fan_out(1.0))
        for word, gain in {"linear": 1.0, "relu": RELU, **gains}.items():
            yield Candidate(f"{name}, fan_in of its use, gain of {word}", shape, _used_fan_in(gain))
    yield Candidate("siren", uniform, _siren)
    yield Candidate("uniform ±1/√fan_out", uniform, _fan_out(1 / math.sqrt(3)))
    for std in (0.001, 0.01, 0.05, 0.1, 1.0):
        yield Candidate(f"N(0, {std:g})", normal, _constant(std))
        yield Candidate(f"uniform ±{std:g}", uniform, _constant(std / math.sqrt(3)))


def gains_of(graph: Graph) -> dict[str, float]:
    """Gains of the activations of a model as ``torch.nn.init.calculate_gain`` has them."""
    found: dict[str, float] = {}
    for node in graph.of_kind("activation"):
        if node.operation in ("tanh", "selu"):
            found[node.operation] = 5 / 3 if node.operation == "tanh" else 0.75
        for alpha in set(node.alpha or ()) if len(set(node.alpha or ())) == 1 else ():
            if abs(alpha) > 0.02:  # nearer to ReLU no layer tells them apart
                found[f"{LEAKY}{alpha:.3g}"] = math.sqrt(2 / (1 + alpha**2))
    return found


def _torch_default(facts: Facts) -> float:
    """Uniform within 1/√fan_in; within recurrent layers of H units within 1/√H."""
    terms = facts.hidden or facts.fans[0]
    return 1 / math.sqrt(3 * terms) if terms else 0.0


def _fan_in(gain: float) -> Callable[[Facts], float]:
    return lambda facts: gain / math.sqrt(facts.fans[0]) if facts.fans[0] else 0.0


def _used_fan_in(gain: float) -> Callable[[Facts], float]:
    return lambda facts: gain / math.sqrt(facts.fan_in) if facts.fan_in else 0.0


def _fan_out(gain: float) -> Callable[[Facts], float]:
    return lambda facts: gain / math.sqrt(facts.fans[1]) if facts.fans[1] else 0.0


def _siren(facts: Facts) -> float:
    """Sitzmann's, at ω = 30: uniform within 1/fan_in at the input, else within √(6/fan_in)/ω."""
    if not facts.fans[0]:
        return 0.0
    return (
        1 / (math.sqrt(3) * facts.fans[0]) if facts.entry else RELU / math.sqrt(facts.fans[0]) / 30
    )


def _xavier(gain: float) -> Callable[[Facts], float]:
    return lambda facts: gain * math.sqrt(2 / sum(facts.fans)) if sum(facts.fans) else 0.0


def _constant(std: float) -> Callable[[Facts], float]:
    return lambda facts: std


# Recognizing


def laws_of(
    layers: Sequence[Facts],
    gains: Mapping[str, float] | None = None,
    planned: Mapping[str, float] | None = None,
) -> dict[str, WeightLaw]:
    """The law of each layer whose weights may be independent draws, by its name.

    One law for the whole model if it fits; those that it does not fit may have one of their own:
    the layers of one operation and parameter name, of them those of one role (branch ends, the
    head), of them those called alike. A minority of outliers does not change the law of a group:
    it is they that are wrong.

    Args:
        layers: of one model.
        gains: see :func:`menu`.
        planned: the standard deviation that a plan gave a layer, by its name.
    """
    planned = planned or {}
    drawn = [layer for layer in layers if layer.drawn]
    told = [layer for layer in drawn if layer.name in planned]
    found: dict[str, WeightLaw] = {}
    for members in _grouped(told, lambda layer: layer.family[:2]):
        shape = _nearest_shape(members)
        found |= {x.name: WeightLaw("as planned", planned[x.name], shape) for x in members}
    rest = [layer for layer in drawn if layer.name not in planned]
    ends = sum(layer.family[2] == "branch end" for layer in layers)
    rows = menu(gains or {}, ends)
    chosen = _recognized(rest, rows, LEVELS, None)
    for layer in rest:
        row = chosen[layer.name] or _near(layer, rest, chosen)
        found[layer.name] = (
            WeightLaw(row.words, row.std(layer), row.shape)
            if row
            else WeightLaw("unknown", None, _nearest_shape([layer]))
        )
    return found


LEVELS: tuple[Callable[[Facts], object], ...] = (
    lambda layer: "",
    lambda layer: layer.family[:2],
    lambda layer: layer.family,
    lambda layer: (layer.family, layer.tail),
)
"""What layers that are drawn alike have in common, from the whole model to a name."""

Chosen = dict[str, "Candidate | None"]
"""The law of each layer; None: no law fits."""


def _recognized(
    layers: Sequence[Facts],
    rows: Sequence[Candidate],
    levels: Sequence[Callable[[Facts], object]],
    common: Candidate | None,
) -> Chosen:
    """The laws of the groups of a level: the common one where it stands, else one of their own.

    Args:
        layers: of one group of the level above.
        rows: the menu.
        levels: this one and those below.
        common: the law of the group above; None: no law fits it.
    """
    found: Chosen = {}
    for group in _grouped(layers, levels[0]):
        row = common
        if row is None or not _stands(group, row):
            row = _best(group, rows)
            alone = common is not None and len(levels) == 1 and len(group) == 1
            if alone or not _fits(group, row):
                row = None
        if levels[1:]:
            found |= _recognized(group, rows, levels[1:], row)
        else:
            found |= {layer.name: row or common for layer in group}
    return found


def _near(layer: Facts, layers: Sequence[Facts], chosen: Chosen) -> Candidate | None:
    """The law of those most like a layer that no law fits, if it is off that law by little."""
    for level in reversed(LEVELS[:-1]):
        alike = [x for x in layers if level(x) == level(layer)]
        if sum(chosen[x.name] is None for x in alike) >= ALIKE:
            return None
        for other in alike:
            row = chosen[other.name]
            if row is not None and _is_near(layer, row):
                return row
    return None


def _is_near(layer: Facts, law: Candidate) -> bool:
    std = law.std(layer)
    return std > 0 and abs(math.log(layer.mean_square / std**2)) < 2 * math.log(NEAR)


def _best(layers: Sequence[Facts], rows: Sequence[Candidate]) -> Candidate:
    """The law of the menu with the smallest misfit."""
    return min(rows, key=lambda row: _misfit(layers, row))


def _misfit(layers: Sequence[Facts], law: Candidate) -> float:
    scales, shapes = _scores(layers, law), _shape_scores(layers, law.shape)
    seldom = 0.0 if law.usual else UNUSUAL
    clipped = np.minimum(scales**2, WORST).sum() + np.minimum(shapes**2, WORST).sum()
    return float(clipped) + seldom


def _stands(layers: Sequence[Facts], law: Candidate) -> bool:
    """Whether half of the layers, and those together, do not contradict a law."""
    scales, shapes = _scores(layers, law), _shape_scores(layers, law.shape)
    inside = scales[np.abs(scales) <= OUTLIER]
    if 2 * len(inside) < len(scales) or 2 * (np.abs(shapes) > OUTLIER).sum() > len(shapes):
        return False
    return bool(stats.chi2.sf(float((inside**2).sum()), len(inside)) >= REJECTED)


def _fits(layers: Sequence[Facts], law: Candidate) -> bool:
    """Whether a law is that of all layers but a minority; of two it is enough to be near one."""
    inside = sum(abs(z) <= OUTLIER for z in _scores(layers, law))
    near = len(layers) < ALIKE and all(_is_near(layer, law) for layer in layers)
    return (2 * inside > len(layers) or near) and _stands(layers, law)


def _scores(layers: Sequence[Facts], law: Candidate) -> np.ndarray:
    """Scores of the mean square of each layer under a law."""
    return np.array([_score(layer, law.std(layer), law.shape) for layer in layers])


def _score(layer: Facts, std: float, shape: Distribution) -> float:
    if std <= 0:
        return math.inf
    return shape.quick_score(layer.mean_square / std**2, layer.count)


def _shape_scores(layers: Sequence[Facts], shape: Distribution) -> np.ndarray:
    """Scores of the kurtosis of each layer, of those with few weights blunted by its bias."""
    seen = np.array([layer.kurtosis for layer in layers])
    count = np.array([min(layer.count, SAMPLE) for layer in layers], dtype=float)
    spread = np.sqrt(shape.kurtosis_variance / count + (10 / count) ** 2)
    return np.asarray((seen - shape.kurtosis) / spread)


def _nearest_shape(layers: Sequence[Facts]) -> Distribution:
    def misfit(shape: Distribution) -> float:
        return float(np.minimum(_shape_scores(layers, shape) ** 2, WORST).sum())

    return min(SHAPES.values(), key=misfit)


def _grouped(layers: Sequence[Facts], key: Callable[[Facts], object]) -> Iterator[list[Facts]]:
    groups: dict[object, list[Facts]] = {}
    for layer in layers:
        groups.setdefault(key(layer), []).append(layer)
    yield from groups.values()
