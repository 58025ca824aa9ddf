"""What an initialization cannot hold, in words: errors that grow, gradients, what was guessed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn

from sigprop.graph import Graph
from sigprop.init.backward import gradient_energies
from sigprop.init.decided import Decided, Levels
from sigprop.init.gains import Criterion
from sigprop.reading.calling import labelled, sameness

GROWTH = 4.0
"""A relative error of a second moment that became this many times larger is said."""
LOUD = 30.0
"""A weight left as it is that multiplies the level by more, or divides it, is said."""
DECADES, DECADES_NORMALIZED = 3.0, 8.0
"""Decades of squared gradient over the weight layers that are said: without and with norms."""


class SignalWarning(UserWarning):
    """The weights are set, but the signal or the gradient will not stay as the theory wants it."""


def warnings_of(
    levels: Levels, names: Mapping[str, str], set_nodes: Collection[str]
) -> tuple[str, ...]:
    """All that is to be said of one initialization.

    Args:
        levels: the walk.
        names: of weight nodes: what users call their layers.
        set_nodes: the weight nodes that are set.
    """
    set_nodes = frozenset(set_nodes)
    found = (
        *_guessed(levels, names, set_nodes),
        *_loud(levels, names, set_nodes),
        *_unstable(levels, names, set_nodes),
        *_gradients(levels, names, set_nodes),
    )
    return tuple(found)


def about_example(model: nn.Module, example: Any) -> tuple[str, ...]:
    """What an example hides that weights are scaled on."""
    inputs = {name: sameness(tensor) for name, tensor in labelled(model, example)}
    found = [f"{name!r}: {what}" for name, what in inputs.items() if what]
    if not found or not all(inputs.values()):
        return ()
    return (
        f"the weights are scaled on an example that shows one input alone ({'; '.join(found)}): on "
        "others the levels will be off by what they differ from it. Give a batch of real data.",
    )


def _guessed(levels: Levels, names: Mapping[str, str], set_nodes: Collection[str]) -> Sequence[str]:
    layers: dict[str, dict[str, None]] = {}
    for name in set_nodes:
        for guess in levels.weights[name].guesses:
            layers.setdefault(guess, {})[names[name]] = None
    if not layers:
        return ()
    by_layers: dict[str, list[str]] = {}
    for guess, of in layers.items():
        by_layers.setdefault(_some(list(of)), []).append(guess)
    parts = [f"{_some(guesses, quoted=False)} (before {of})" for of, guesses in by_layers.items()]
    return (
        f"not known, and left out of the gain: {_some(parts, quoted=False)}. "
        "Give an example of the input (example=), on which it is measured.",
    )


def _loud(levels: Levels, names: Mapping[str, str], set_nodes: Collection[str]) -> Sequence[str]:
    far = {
        names[name]: decided.change
        for name, decided in levels.weights.items()
        if name not in set_nodes and name in names and not 1 / LOUD <= decided.change <= LOUD
    }
    if not far:
        return ()
    said = [f"{name!r} ({change:.3g} times the level)" for name, change in far.items()]
    return (
        f"left as they are, and off: what comes out of {_some(said, quoted=False)}. Scale such a "
        "weight by itself, or set it (a frozen one by frozen=True).",
    )


def _unstable(
    levels: Levels, names: Mapping[str, str], set_nodes: Collection[str]
) -> Sequence[str]:
    growing = [(levels.weights[n].growth, n) for n in set_nodes if not levels.weights[n].trouble]
    worst = [(growth, name) for growth, name in growing if growth > GROWTH]
    if not worst:
        return ()
    growth, name = max(worst)
    decided = levels.weights[name]
    return (
        f"q is not stable: an error of 1 % in the second moment (finite width makes larger ones) "
        f"becomes {_percent(growth)} at layer {names[name]!r}"
        f"{_fed(decided)}, as its variance map is steeper than 1 (χ∥ > 1). "
        f"{_what_instead(levels.graph, levels.criterion, decided)}",
    )


def _fed(decided: Decided) -> str:
    return f" ({decided.activation})" if decided.activation not in ("", "identity") else ""


def _percent(growth: float) -> str:
    return f"{growth:.3g} %" if growth < 1000 else f"{growth:.1e} %"


def _what_instead(graph: Graph, criterion: Criterion, decided: Decided) -> str:
    if any(node.kind == "product" for node in graph.nodes):
        return "Use normalization before the products, or fewer of them in a row."
    if criterion.kind == "critical":
        return (
            "Its critical point holds no net. Use kind='forward' with a small q (0.01, at which "
            "the activation is nearly straight and χ∥ near 1), normalization, or a leaky ReLU."
        )
    return (
        f"Use a smaller q than {criterion.q:g} (q=0.01: there the activation is nearly straight "
        "and χ∥ near 1), normalization, or a leaky ReLU."
    )


def _gradients(
    levels: Levels, names: Mapping[str, str], set_nodes: Collection[str]
) -> Sequence[str]:
    energies = {n: e for n, e in gradient_energies(levels).items() if n in set_nodes}
    if len(energies) < 2:
        return ()
    low, high, decades = _range(energies, levels.graph.place)
    normalized = any(node.kind == "normalization" for node in levels.graph.nodes)
    if decades <= (DECADES_NORMALIZED if normalized else DECADES):
        return ()
    place = levels.graph.place
    word = "grows" if place[high] < place[low] else "vanishes"
    advice = "Use residual connections or normalization."
    if levels.criterion.kind in ("forward", "unit_variance") and not normalized:
        advice = (
            "Use kind='critical' (χ = 1) or a smaller q, or residual connections, normalization, "
            "a leaky ReLU."
        )
    return (
        f"the squared gradient {word} on its way back by 10^{decades:.1f}: from layer "
        f"{names[max(low, high, key=place.__getitem__)]!r} to "
        f"{names[min(low, high, key=place.__getitem__)]!r}. {advice}",
    )


def _range(energies: Mapping[str, float], place: Mapping[str, int]) -> tuple[str, str, float]:
    """The layers between which the gradient changes most, and by how many decades.

    A branch that is scaled down beside a stream is no change: of all layers up to one, and of all
    from one on, the largest gradient counts.
    """
    order = sorted(energies, key=place.__getitem__)
    best = (order[0], order[0], 0.0)
    for way in (order, order[::-1]):
        largest = way[0]
        reached = []
        for name in way:
            largest = name if energies[name] >= energies[largest] else largest
            reached.append(largest)
        low, high = reached[0], reached[-1]
        if energies[high] - energies[low] > best[2]:
            best = (low, high, energies[high] - energies[low])
    return best


def _some(words: Sequence[str], *, quoted: bool = True) -> str:
    shown = [repr(word) if quoted else word for word in words[:3]]
    more = f" and {len(words) - 3} more" if len(words) > 3 else ""
    return ", ".join(shown) + more
