"""Steps that together are one thing: an activation written out, a normalization by hand.

An elementwise expression of one signal (x·σ(x), ``where(x > 0, x, 0.2·x)``) is run by itself and
becomes one node with a record of its own. A function of one signal with means or norms inside that
does not change when the signal is scaled (x/√(mean x² + ε)) is a normalization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigprop.activations import Activation, activation, as_activation
from sigprop.graph import Kind, Moments
from sigprop.reading.call_records import leaky, slopes_of
from sigprop.reading.meanings import Meaning
from sigprop.reading.steps import CannotReplay, Step, replay

_SCALED, _SHIFTED, _BENT = 1, 2, 3
_SHAPES: dict[Kind, int] = {"passage": _SCALED, "scale": _SCALED, "sum": _SCALED, "shift": _SHIFTED}
_TRIALS = ((8, 12), (4, 6, 12), (3, 6, 5, 5), (2, 6, 4, 4, 4))
_SHAPED = (torch.Size(()), torch.Size((2, 3)))
_ENTRIES = torch.linspace(-1.7, 2.3, 6, dtype=torch.float64).reshape(2, 3)
_LARGE = 1e3
_USUAL = 0.02
"""What ε may change in a normalization of numbers about 1."""
_SMALL = 12
_LONGEST = 24

Meanings = dict[Step, Meaning]


def join_up(meanings: Meanings) -> Meanings:
    """The meanings with the steps of each expression and hand-written norm become one."""
    meanings = _Norms(meanings).joined()
    return _Expressions(meanings).joined()


class _Joining:
    """Steps replaced by one, in place of their last."""

    def __init__(self, meanings: Meanings) -> None:
        self.meanings = dict(meanings)
        self.users: dict[Step, list[Step]] = {}
        for step in meanings:
            for before in step.data:
                self.users.setdefault(before, []).append(step)
        self.gone: set[Step] = set()

    def absorb(self, inside: Sequence[Step], end: Step) -> None:
        """Leave out the steps that are used inside alone."""
        for step in reversed(inside):
            used = self.users.get(step, [])
            if step is not end and used and all(u is end or u in self.gone for u in used):
                self.gone.add(step)

    def rest(self) -> Meanings:
        """What is left."""
        return {step: found for step, found in self.meanings.items() if step not in self.gone}


class _Expressions(_Joining):
    """Elementwise expressions of one signal."""

    def __init__(self, meanings: Meanings) -> None:
        super().__init__(meanings)
        self.roots: dict[Step, Step] = {}
        self.shapes: dict[Step, int] = {}
        self.known = _Known(_RECORDS)
        for step, found in meanings.items():
            self._place(step, found)

    def _place(self, step: Step, found: Meaning) -> None:
        """Say of what signal a step is a function, and how bent."""
        met = {self.roots.get(before, before) for before in step.data}
        if len(met) != 1 or not _elementwise(step, found):
            return
        self.roots[step] = met.pop()
        own = _SHAPES.get(found.kind, _BENT)
        self.shapes[step] = max([own, *(self.shapes.get(before, 0) for before in step.data)])

    def joined(self) -> Meanings:
        """Expressions from their ends backwards."""
        for step in reversed(list(self.meanings)):
            if step in self.roots and step not in self.gone and self._is_end(step):
                self._become_one(step)
        return self.rest()

    def _is_end(self, step: Step) -> bool:
        """Whether an expression may end here: at a step that alone would be misread."""
        found = self.meanings[step]
        if found.kind == "comparison":
            return False
        if found.kind == "selection":
            return True
        if found.kind in _SHAPES or found.kind == "product":
            return len(step.data) > 1 and self.shapes[step] == _BENT
        before = [self.shapes.get(b, 0) for b in step.data]
        if found.alpha is not None:  # what only scales its input changes nothing
            return max(before) >= _SHIFTED
        return found.activation is None or max(before) > 0

    def _become_one(self, end: Step) -> None:
        root, found = self.roots[end], self.meanings[end]
        inside = [s for s in _between(end, root) if self.roots.get(s) is root]
        words = self._words(inside)
        record = self.known.get(inside, root, lambda: _record(end, root, words))
        if record is None:
            bent = any(self.shapes.get(b) == _BENT for b in end.data)
            if found.kind == "activation" and (bent or found.alpha is None):
                self.meanings[end] = replace(found, alpha=None, activation=None)
            return
        self.meanings[end] = Meaning("activation", (root,), record.name, slopes_of(record), record)
        self.meanings[end] = replace(self.meanings[end], inside=tuple(inside))
        self.absorb(inside, end)

    def _words(self, inside: Sequence[Step]) -> str:
        return "→".join(self.meanings[step].operation for step in inside)


def _elementwise(step: Step, found: Meaning) -> bool:
    """Whether a step may act entry by entry; running it decides."""
    if step.what == "module":
        return found.kind == "activation"
    return step.row is not None and step.row.expression


def _between(end: Step, root: Step, most: int | None = None) -> list[Step]:
    """The steps with data from the root to the end, in order; none if there are too many."""
    order: list[Step] = []
    seen = {root}
    stack = [(end, False)]
    while stack:
        step, done = stack.pop()
        if done:
            order.append(step)
        elif step not in seen:
            if most is not None and len(seen) > most:
                return []
            seen.add(step)
            stack.append((step, True))
            stack += [(before, False) for before in step.data]
    return order


class _Known:
    """What was found of expressions: for good where all constants are numbers, else for now."""

    def __init__(self, lasting: dict[Any, Any]) -> None:
        self.lasting, self.here = lasting, dict[Any, Any]()

    def get(self, inside: Sequence[Step], root: Step, find: Callable[[], Any]) -> Any:
        """What is known of the steps from a root on; found if it is not."""
        key, lasts = _fingerprint(inside, root)
        known = self.lasting if lasts else self.here
        if key not in known:
            if len(known) >= _MOST_KNOWN:
                known.clear()
            known[key] = find()
        return known[key]


_VOID = Moments(0.0, -1.0)
"""Of a norm whose second moment depends on a size that is not known."""
_MOST_KNOWN = 256
_RECORDS: dict[Any, Activation | None] = {}
_MOMENTS: dict[Any, Moments | None] = {}


def _fingerprint(inside: Sequence[Step], root: Step) -> tuple[Any, bool]:
    """The same for the same expression written elsewhere; whether its constants are numbers."""
    lasts = True
    places = {step: place for place, step in enumerate(inside)} | {root: -1}

    def shown(value: Any) -> Any:
        nonlocal lasts
        if isinstance(value, Step):
            lasts = lasts and value in places
            return ("step", places[value]) if value in places else ("other", id(value))
        if isinstance(value, Tensor):
            same = value.numel() > 0 and not value.is_meta
            same = same and bool((value == value.flatten()[0]).all())
            lasts = lasts and same
            return ("number", value.flatten()[0].item()) if same else ("tensor", id(value))
        if isinstance(value, list | tuple):
            return tuple(shown(entry) for entry in value)
        if isinstance(value, dict):
            return tuple((key, shown(entry)) for key, entry in value.items())
        return repr(value)

    key = tuple((step.func, shown(step.args), shown(step.kwargs)) for step in inside)
    modules = any(step.what == "module" for step in inside)
    return key, lasts and not modules


def _record(end: Step, root: Step, words: str) -> Activation | None:
    """The record of an expression run in float64; None: it is not elementwise after all."""

    def run(x: Tensor) -> Any:
        if not isinstance(x, Tensor):
            raise TypeError("an expression of tensors")
        return replay(end, {root: x.clone()}, dtype=x.dtype, scalars=True)

    try:
        if any(run(torch.zeros(shape, dtype=torch.float64)).shape != shape for shape in _SHAPED):
            return None  # it keeps no shape but that of its constants
        alone = torch.stack([run(entry) for entry in _ENTRIES.flatten()]).reshape(_ENTRIES.shape)
        if not torch.allclose(run(_ENTRIES), alone, rtol=1e-9, atol=0.0, equal_nan=True):
            return None  # an entry depends on others, as by x − max x
        record = as_activation(run, name=words)
    except Exception:  # not elementwise, or it needs more than its signal
        return None
    return _leaky_of(record) or record


def _leaky_of(record: Activation) -> Activation | None:
    """The member of the leaky family that a record is, if it is one."""
    if record.breakpoints not in ((0.0,), ()) or any(record.jumps):
        return None
    x = np.array([-1e3, -3.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 3.0, 1e3])
    alpha = -float(record.f(np.array([-1.0]))[0])
    wanted = np.where(x > 0, x, alpha * x)
    if not np.allclose(record.f(x), wanted, rtol=1e-6, atol=1e-12):
        return None
    return activation("identity") if alpha == 1 else leaky((alpha,))


# Normalizations


_REDUCTIONS = frozenset(
    (
        "mean", "sum", "var", "std", "norm", "vector_norm", "amax", "amin", "max", "var_mean",
        "std_mean",
    )
)  # fmt: skip


class _Norms(_Joining):
    """Functions of one signal, with means or norms inside, that its scale does not change."""

    def __init__(self, meanings: Meanings) -> None:
        super().__init__(meanings)
        self.known = _Known(_MOMENTS)

    def joined(self) -> Meanings:
        """From the ends backwards."""
        for step in reversed(list(self.meanings)):
            if step not in self.gone and self.meanings[step].kind == "product":
                for base in self._bases(step):
                    if self._normalizes(step, base):
                        break
        return self.rest()

    def _bases(self, end: Step) -> Iterator[Step]:
        """Signals that it may normalize: a factor of it, or what a factor is the difference of."""
        for factor in end.data:
            yield factor
        for factor in end.data:
            yield from factor.data

    def _normalizes(self, end: Step, base: Step) -> bool:
        inside = _between(end, base, most=_LONGEST)
        if not _closed(inside, base, self.meanings):
            return False
        moments = self.known.get(inside, base, lambda: _normalized_moments(end, base))
        if moments is None:
            return False
        words = "→".join(self.meanings[step].operation for step in inside if step in self.meanings)
        constant = None if moments is _VOID else moments
        self.meanings[end] = Meaning(
            "normalization", (base,), words, constant=constant, inside=tuple(inside)
        )
        self.absorb(inside, end)
        return True


def _closed(inside: Sequence[Step], base: Step, meanings: Meanings) -> bool:
    """Whether steps are a function of one signal alone, with a reduction among them."""
    rows = [step.row for step in inside]
    if any(row is None for row in rows):
        return False
    names = {row.name for row in rows if row is not None}
    if not names & _REDUCTIONS:
        return False
    own = {*inside, base}
    return all(
        row is not None and (row.expression or row.name in _REDUCTIONS or row.kind == "passage")
        for row in rows
    ) and all(before in own for step in inside for before in step.data)


def _normalized_moments(end: Step, base: Step) -> Moments | None:
    """Moments of what it makes of standard normal numbers, if the scale of those is void."""
    shapes: Sequence[tuple[int, ...]]
    if base.shape is None:
        shapes = _TRIALS
    else:
        shapes = (tuple(min(size, _SMALL) for size in base.shape), base.shape)
    for shape in shapes:
        values = [_on_normal(end, base, shape, _LARGE * c) for c in (1.0, 2.0, 4.0)]
        if any(value is None for value in values):
            continue
        found = [value for value in values if value is not None]
        size = float(found[0].abs().max())
        if size == 0 or not all(
            torch.allclose(v, found[0], rtol=1e-4, atol=1e-6 * size) for v in found[1:]
        ):
            return None
        usual = _on_normal(end, base, shape, 1.0)
        if usual is None or not torch.allclose(usual, found[0], rtol=_USUAL, atol=_USUAL * size):
            return None  # of numbers about 1 it is none, as x·‖x‖/(1 + ‖x‖²)
        if base.shape is None:
            larger = _on_normal(end, base, [2 * size for size in shape], _LARGE)
            q, other = (v.square().mean() if v is not None else 0 for v in (found[0], larger))
            if not 0.7 < other / q < 1.4:
                return _VOID
        whole = found[0] if base.shape is None else _on_normal(end, base, base.shape, _LARGE)
        if whole is not None:
            return Moments(float(whole.mean()), float(whole.square().mean()))
    return None


def _on_normal(end: Step, base: Step, shape: Sequence[int], size: float) -> Tensor | None:
    """What it makes of normal numbers of a shape and size, None if it cannot."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(tuple(shape), generator=source, dtype=torch.float64) * size
    try:
        value = replay(end, {base: x}, dtype=torch.float64)
    except CannotReplay:
        return None
    return value if isinstance(value, Tensor) and value.numel() == x.numel() else None
