"""What no rule predicts: measured on the example, one operation at a time.

The first time a call is met its own moments stand for it, and its values are asked for; the model
is then run once more, these values are kept, and the prediction is made again with them. Where the
weights are to be others than those that the model was run with, the operation is run alone: on what
the last weights, sums and norms before it gave, brought to the moments that are predicted there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sigprop.measurement.nodes import NodeStatistics
from sigprop.prediction.translate import Translator
from sigprop.reading.random_states import own_generator
from sigprop.reading.steps import CannotReplay, Step, nearest, replay, tensors_in
from sigprop.reading.witness import Witness, moments
from sigprop.theory.network import Call, CannotPredict, SignalState, from_moments, from_values
from sigprop.theory.network.propagate import Lost, Whole
from sigprop.theory.network.tables import hides

_ENDS = ("input", "source", "weight", "attention", "recurrent", "embedding", "sum", "normalization")
"""Kinds of nodes of which the shape of the distribution is known well, and the size predicted."""
ROUNDING = 1e-6
"""Share of a second moment below which the variance in it is no more than rounding."""


class Places(Witness):
    """Counts the tensors that are made: the number of each step, the same in each run."""

    def __init__(self) -> None:
        self.of: dict[Step, int] = {}

    def made(self, step: Step, tensor: Tensor) -> None:
        """Give the step its number."""
        self.of[step] = len(self.of)


class Values(Witness):
    """Keeps some of the tensors that are made."""

    def __init__(self, wanted: set[int]) -> None:
        self.wanted, self.count = wanted, 0
        self.found: dict[int, Tensor] = {}

    def made(self, step: Step, tensor: Tensor) -> None:
        """Keep a tensor as it is now."""
        if self.count in self.wanted:
            self.found[self.count] = tensor.detach().clone()
        self.count += 1


class Measured:
    """Values of single nodes on the example.

    Args:
        translator: that made the calls.
        places: of the steps.
        run: runs the model again under a witness.
        seen: runs it again forward and backward: gradients by the names of nodes.
        other_weights: whether the prediction is for other weights than those that are run.

    Attributes:
        as_run: the nodes that were measured with the weights that are run.
    """

    def __init__(
        self,
        translator: Translator,
        places: Places,
        run: Callable[[Witness], Any],
        seen: Callable[[], NodeStatistics],
        *,
        other_weights: bool = False,
    ) -> None:
        self.translator, self.places, self.run = translator, places, run
        self.other_weights = other_weights
        self.as_run: set[str] = set()
        self.steps = translator.reading.steps
        self.wanted: set[int] = set()
        self.values: dict[int, Tensor] = {}
        self.collected = False
        self.seed = 0x73656564
        self._see: Callable[[], NodeStatistics] | None = seen
        self._seen: NodeStatistics | None = None

    def collect(self) -> bool:
        """Run the model for the values that were asked for; whether there were any."""
        self.collected = True
        if not self.wanted:
            return False
        witness = Values(self.wanted)
        self.run(witness)
        self.values = witness.found
        if not self.other_weights:
            for step, place in self.places.of.items():
                if place in self.values:
                    self.translator.values[step] = self.values[place]
        return True

    @property
    def seen(self) -> NodeStatistics | None:
        """Gradients of one backward pass of the whole model; None where there are none."""
        if self._see is not None:
            see, self._see = self._see, None
            try:
                self._seen = see()
            except (RuntimeError, ValueError):  # nothing that a gradient goes through
                self._seen = None
        return self._seen

    def forward(self, call: Call, states: Mapping[str, Any]) -> Any:
        """The state of what leaves a node.

        Args:
            call: that no rule predicts.
            states: of the nodes before it.

        Raises:
            ValueError: it is nowhere to be measured.
        """
        step = self.steps[call.name]
        if step.shape is not None and self.translator.meta:
            raise CannotPredict(
                f"no rule predicts {call.name!r} ({call.operation}), and a model on the meta "
                "device has no values to measure; give a model with values"
            )
        own = self._kept(step)
        made = self._at_size(step, states) if self.other_weights else self._as_it_was(call)
        if isinstance(made, Tensor) and tuple(made.shape) != call.shape:
            made = None  # other rows were chosen than on the example
        if self.other_weights and made is not None:
            (self.as_run.add if self._holds_old(step) else self.as_run.discard)(call.name)
            return _states(made)
        self.as_run.add(call.name)
        if own is not None and (made is None or isinstance(made, Tensor)):
            return _state(own)
        if made is not None:
            return _states(made)
        if step.measured is not None:
            m = step.measured
            return from_moments(step.shape or (), m.q, m.mean, m.mean**2)
        return tuple([None] * 8) if step.shape is None else from_moments(step.shape, 1.0)

    def _as_it_was(self, call: Call) -> Any:
        """What an operation makes of the values kept; None where one is missing."""
        if not call.inputs or any(self._kept(self.steps[name]) is None for name in call.inputs):
            return None
        try:
            with torch.no_grad():
                return self._run_alone(self.steps[call.name])
        except CannotReplay:
            return None

    def _at_size(self, step: Step, states: Mapping[str, Any]) -> Any:
        """What an operation makes of what is to enter it; None where it cannot be run."""
        given = self._fitted_before(step.data, states)
        return None if given is None else self._value(step, given)

    def _fitted_before(
        self, steps: Sequence[Step], states: Mapping[str, Any]
    ) -> dict[Any, Tensor] | None:
        """The inputs, and what the ends before some steps are to give; None where one is lost."""
        given: dict[Any, Tensor] = dict(self.translator.given)
        ends = [(end, self._kept(end)) for end in self._ends(steps)]
        for end, kept in ends:
            if kept is None:
                return None
            given[end] = _fitted(kept, states.get(self.translator.names[end]))
        return given

    def _entering(self, call: Call, states: Mapping[str, Any]) -> dict[Step, Any]:
        """What enters a node: as it was, or as it is to be; None where that is not known."""
        steps = [self.steps[name] for name in call.inputs]
        if not self.other_weights:
            return {step: self._kept(step) for step in steps}
        given = self._fitted_before(steps, states)
        return {step: None if given is None else self._value(step, given) for step in steps}

    def _value(self, step: Step, given: Mapping[Any, Tensor]) -> Any:
        """What a step makes of given values; None where it cannot be run."""
        try:
            with torch.no_grad():
                return given[step] if step in given else replay(step, given)
        except CannotReplay:
            return None

    def _ends(self, steps: Sequence[Step]) -> list[Step]:
        """Where values are brought to size: the last weights, sums and norms before some steps."""
        graph, names = self.translator.reading.graph.by_name, self.translator.names

        def ends(step: Step) -> bool:
            last = step in names and (graph[names[step]].kind in _ENDS or not step.data)
            return last and not any(map(self._is_mask, step.data))

        return nearest(steps, ends)

    def _holds_old(self, step: Step) -> bool:
        """Whether it takes weights, or whole numbers made of data, as they are in the model now."""
        old = (self.translator.origins, self.translator.laws.names)
        taken = tensors_in((step.args, step.kwargs))
        return any(id(tensor) in known for tensor in taken for known in old)

    def _is_mask(self, step: Step) -> bool:
        """Whether it is an input that hides what it is added to: the sum has no size of its own."""
        given = self.translator.given.get(step)
        return given is not None and given.is_floating_point() and hides(given.cpu().numpy())

    def backward(self, call: Call, gradient: Any, states: Mapping[str, Any]) -> Sequence[Any]:
        """Gradients of the inputs of a node.

        One vector-Jacobian product of it alone; where it cannot be run alone, or is given no
        gradient, the one that a backward pass of the whole model brings there.
        """
        none: list[Any] = [None] * len(call.inputs)
        if self.translator.meta:
            return none
        if gradient is None or call.refused_back:
            return self._whole(call)
        entering = self._entering(call, states)
        steps = [self.steps[name] for name in call.inputs]
        kept = [entering[step] for step in steps]
        if any(value is None for value in kept):
            lost = any(s not in self.translator.given and s not in self.places.of for s in steps)
            return self._whole(call) if lost or self.collected else none
        leaves = [_leaf(value) for value in kept if value is not None]
        given = dict(zip(steps, leaves, strict=True))
        try:
            with torch.enable_grad():
                out = self._again(self.steps[call.name], given, states)
        except CannotReplay:
            return self._whole(call)
        if isinstance(out, Tensor) and call.shape is not None and tuple(out.shape) != call.shape:
            return self._whole(call)
        both = zip(_tensors(out), _several(gradient), strict=False)
        pairs = [(t, state) for t, state in both if state is not None and t.requires_grad]
        if not pairs:
            return none
        self.seed += 1
        source = own_generator(self.seed)
        sent = [_noise(t, state.q, source) for t, state in pairs]
        asked = [leaf for leaf in leaves if leaf.requires_grad]
        found = torch.autograd.grad([t for t, _ in pairs], asked, sent, allow_unused=True)
        by_leaf = {id(leaf): g for leaf, g in zip(asked, found, strict=True)}
        gradients = [by_leaf.get(id(leaf)) for leaf in leaves]
        lost = any(
            g is None and leaf.requires_grad for g, leaf in zip(gradients, leaves, strict=True)
        )
        whole = self._whole(call) if lost else none
        return [
            rest if g is None else from_moments(tuple(g.shape), moments(g).q)
            for g, rest in zip(gradients, whole, strict=True)
        ]

    def _whole(self, call: Call) -> list[Any]:
        """The gradients at the inputs of a node, from all that they go to."""
        return [self.at(name) for name in call.inputs]

    def at(self, name: str) -> Any:
        """The gradient at a node from all that it goes to, of one pass of the whole model.

        Args:
            name: of the node.

        Returns:
            A ``Whole``; ``Lost``: it is not to be had; None: none arrives.
        """
        node, step = None if self.seen is None else self.seen.by_name.get(name), self.steps[name]
        if node is not None and node.gradient is not None and step.shape is not None:
            return Whole(from_moments(step.shape, node.gradient))
        seen_by_none = step not in self.places.of and step not in self.translator.given
        return Lost() if (seen_by_none or step.own_gradient) and step.shape is not None else None

    def _kept(self, step: Step) -> Tensor | None:
        """The tensor that a step made; asked for if it is not kept."""
        if step in self.translator.given:
            return self.translator.given[step]
        place = self.places.of.get(step)
        if place is None:
            return None
        self.wanted.add(place)
        return self.values.get(place)

    def _again(self, step: Step, leaves: Mapping[Step, Tensor], states: Mapping[str, Any]) -> Any:
        """What an operation makes of leaves, and of whatever enters it besides."""
        if not self.other_weights:
            return self._run_alone(step, leaves)
        before = self._fitted_before(step.data, states)
        if before is None:
            raise CannotReplay(f"{step!r} needs values that are lost")
        return replay(step, {**before, **leaves})

    def _run_alone(self, step: Step, given: Mapping[Any, Any] = {}) -> Any:
        """What an operation makes of the values kept."""
        nodes = [before for before in step.data if before in self.translator.names]
        for before in nodes:
            self._kept(before)
        kept = {s: self.translator.values[s] for s in nodes if s in self.translator.values}
        return replay(step, self.translator.around(step, {**kept, **given}))


def _fitted(values: Tensor, state: Any) -> Tensor:
    """Values brought to the moments of a state: by a factor, and a shift where signs differ."""
    if not isinstance(state, SignalState) or not values.is_floating_point():
        return values
    now, q, mean = moments(values), state.q, state.mean_entry
    spread, wanted = now.q - now.mean**2, max(q - mean**2, 0.0)
    if now.q <= 0 or not math.isfinite(now.q + q):
        return values
    one_sign = bool((values >= 0).all() or (values <= 0).all())
    if one_sign or spread <= ROUNDING * now.q or wanted <= ROUNDING * q:
        return values * math.sqrt(q / now.q)
    return (values - now.mean) * math.sqrt(wanted / spread) + mean


def _leaf(value: Tensor) -> Tensor:
    leaf = value.detach().clone()
    return leaf.requires_grad_() if leaf.is_floating_point() or leaf.is_complex() else leaf


def _noise(like: Tensor, q: float, source: torch.Generator) -> Tensor:
    """Normal numbers with this very mean square, of real and imaginary parts each."""
    if like.is_complex():
        parts = torch.view_as_real(like)
        return torch.view_as_complex(_noise(parts, q, source).contiguous())
    made = torch.randn(like.shape, generator=source)
    size = float(made.double().square().mean())
    return made.mul_(math.sqrt(q / size) if size > 0 else 0.0).to(like)


def _several(gradient: Any) -> tuple[SignalState | None, ...]:
    return gradient if isinstance(gradient, tuple) else (gradient,)


def _tensors(out: Any) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else [t for t in out if isinstance(t, Tensor)]


def _state(values: Tensor) -> SignalState:
    """The moments of a tensor; of complex numbers real and imaginary parts are entries."""
    values = values.detach()
    if values.layout is not torch.strided:
        values = values.to_dense()
    if not values.numel():  # what no row was chosen for
        return from_moments(values.shape, 0.0)
    if not values.is_complex():
        return from_values(values.double().cpu().numpy())
    real, imaginary = _state(values.real), _state(values.imag)
    return replace(
        real, second=(real.second + imaginary.second) / 2, mean=(real.mean + imaginary.mean) / 2
    )


def _states(values: Any) -> Any:
    if isinstance(values, Tensor):
        return _state(values)
    return tuple(_state(v) if isinstance(v, Tensor) else None for v in values)
