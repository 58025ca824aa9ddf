"""One model on the way to its moments: recorded, turned into calls, sent through the rules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sigprop.measurement.hooks import ONE_AT_A_TIME
from sigprop.measurement.nodes import NodeStatistics, measure_nodes
from sigprop.prediction.inputs import example_of, tokens
from sigprop.prediction.materialize import Materializer
from sigprop.prediction.measured import Measured, Places
from sigprop.prediction.planned import Draw
from sigprop.prediction.room import Room
from sigprop.prediction.translate import Translator
from sigprop.prediction.unlike import Unlike
from sigprop.reading.build import build
from sigprop.reading.calling import check_model, flatten, is_mask, labelled, unwrapped
from sigprop.reading.failures import errors_named
from sigprop.reading.running import record_steps
from sigprop.reading.steps import Step
from sigprop.reading.used import Reading
from sigprop.theory.network import (
    Call,
    Propagation,
    SignalState,
    from_moments,
    from_values,
    propagate,
)
from sigprop.theory.network.borders import places_of
from sigprop.theory.network.divisions import with_position_axis
from sigprop.theory.network.lags import Seen, lags_of
from sigprop.theory.network.neighbours import before_pools
from sigprop.theory.network.propagate import Decide
from sigprop.theory.network.roughness import roughness_of
from sigprop.theory.network.spans import span_of

Positions = Literal["exchangeable", "full"]
Weights = Literal["law", "actual"]
MOST_PAIRS = 2**23
"""Pairs of entries of an input that are told apart at most."""


@dataclass(frozen=True)
class Choice:
    """How a prediction is made."""

    weights: Weights = "law"
    positions: Positions = "exchangeable"
    samples: Positions = "exchangeable"


MASKED = -1e9
"""What −∞ in a mask counts as."""


class Decider(Protocol):
    """Decides how weights will be drawn, each when the moments of what enters it are known."""

    def prepare(self, reading: Reading) -> Mapping[str, Draw]:
        """How parameters count until it is decided, by ``computed_from`` of their names."""
        ...

    def begin(self, translator: Translator) -> Decide:
        """What is asked at each call of one propagation."""
        ...

    def again(self) -> bool:
        """Whether all is to be sent once more, as something was decided too early."""
        ...


@dataclass(frozen=True)
class DecidedMoments:
    """A model whose weights have been decided.

    Attributes:
        reading: of it.
        found: the moments that it will have.
        places: the number of each step among those that a run makes.
        example: that it was run on.
        as_run: the nodes that no rule predicts and that were measured with the weights before.
    """

    reading: Reading
    found: Propagation
    places: Mapping[Step, int]
    example: Any
    as_run: Collection[str]


def decided(model: nn.Module, x: Any, decider: Decider) -> DecidedMoments:
    """Send moments through a model while the laws of its weights are decided.

    Errors of the model on its input come through as they are.

    Args:
        model: see :func:`~sigprop.predict`.
        x: see :func:`~sigprop.predict`.
        decider: decides.
    """
    with ONE_AT_A_TIME, quiet():
        run = ModelRun(model, x, Choice(), decider.prepare, as_it_is=False)
        found = run.decided(decider)
    return DecidedMoments(run.reading, found, run.places.of, run.example, run.measured.as_run)


@contextmanager
def quiet() -> Iterator[None]:
    """Random numbers of torch are drawn aside, and numpy says nothing of overflow."""
    with torch.random.fork_rng(devices=[]), np.errstate(all="ignore"):
        yield


class ModelRun:
    """A model, recorded on an example, and the states of what enters it.

    Args:
        model: any module.
        x: see :func:`~sigprop.predict`.
        choice: how it is predicted.
        planned: how parameters will be drawn, of what was read.
        as_it_is: whether the parameters are to have finite values.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Any,
        choice: Choice,
        planned: Callable[[Reading], Mapping[str, Draw]],
        *,
        as_it_is: bool = True,
    ) -> None:
        check_model(model)
        model = unwrapped(model)
        example, drawn = example_of(model, x)
        _check_inputs(model, example, finite=as_it_is)
        self.model, self.example, self.places = model, example, Places()
        self.choice = choice
        with errors_named(model, example):
            recorder, ends = record_steps(model, example, measure=True, witness=self.places)
        self.reading = reading = build(model, recorder.steps, ends, list(recorder.cuts))
        tensors = [tensor for _, tensor in labelled(model, example)]
        entries = [step for step in recorder.steps if step.what == "input"]
        given = {e: _with_values(model, t) for e, t in zip(entries, tensors, strict=True)}
        draws = planned(reading)
        self.translator = Translator(
            reading, given, dict(model.named_parameters()), draws,
            Materializer(model), recorder.origins, actual=choice.weights == "actual",
            full=choice.positions == "full",
        )  # fmt: skip
        self.translator.meta = any(tensor.is_meta for tensor in tensors)
        self.calls = self.translator.calls()
        self.states = _entries(reading, self.translator, self.calls, drawn, choice)
        self.lags = _lags(reading, self.translator, self.calls, drawn)
        self.spans = _spans(reading, self.translator, self.calls, drawn)
        self.sizes = _sizes(reading, self.translator, self.calls, drawn)
        self.measured = Measured(
            self.translator,
            self.places,
            lambda witness: record_steps(model, example, witness=witness),
            lambda: measured_nodes(model, example),
            other_weights=bool(draws),
        )

    def propagated(self) -> Propagation:
        """All moments, those included that no rule predicts: measured on the example."""
        found = self._propagated()
        if not self.measured.collected and self.measured.collect():
            found = self._propagated()
        return found

    def decided(self, decider: Decider) -> Propagation:
        """The same, when nothing is decided anew; until then signals alone are sent."""

        def enough() -> bool:
            unknown = self.measured.wanted and not self.measured.collected
            return bool(unknown) or not decider.again()

        while True:
            found = self._propagated(decider, enough)
            if not found.forward_only and (self.measured.collected or not self.measured.collect()):
                return found

    def _propagated(
        self, decider: Decider | None = None, enough: Callable[[], bool] | None = None
    ) -> Propagation:
        return propagate(
            self.calls,
            self.states,
            _cotangents(self.reading, self.calls),
            measure=self.measured.forward,
            measure_back=self.measured.backward,
            measure_at=None
            if self.translator.meta or self.measured.other_weights
            else self.measured.at,
            decide=None if decider is None else decider.begin(self.translator),
            watch=Room(asdict(self.choice), len(self.calls)),
            lags=self.lags,
            places=self.sizes,
            spans=self.spans,
            enough=enough,
        )


def _with_values(model: nn.Module, tensor: Tensor) -> Tensor:
    """A tensor; tokens on the meta device are drawn, as a look-up asks which are equal.

    A mask that is added to logits gets a finite value that softmax makes 0 as well.
    """
    if tensor.is_meta and not tensor.is_floating_point():
        return tokens(model, tuple(tensor.shape), tensor.dtype)
    if tensor.is_floating_point() and not tensor.is_meta and is_mask(tensor):
        return tensor.double().clamp(min=MASKED)
    return tensor


def measured_nodes(model: nn.Module, example: Any) -> NodeStatistics:
    """Gradients as they are on the example."""
    if isinstance(example, Mapping):
        return measure_nodes(model, **example)
    return measure_nodes(model, *(example if type(example) is tuple else (example,)))


def refuse_lazy(model: nn.Module) -> None:
    """Refuse a model that a first run would change.

    Raises:
        ValueError: naming what has no shape yet.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(
                f"{name!r} is lazy: it has no shape before the model has run. Call the model once "
                "on an example first."
            )


def _check_inputs(model: nn.Module, example: Any, *, finite: bool) -> None:
    for tensor in flatten(example):
        if tensor.is_complex() or tensor.layout != torch.strided:
            kind = "complex" if tensor.is_complex() else f"{tensor.layout}"
            raise ValueError(f"inputs that are {kind} are not predicted; give real, dense ones.")
        if not tensor.numel():
            raise ValueError(
                f"an input of shape {tuple(tensor.shape)} has no entries, and no moments; give one "
                "with sizes of at least 1."
            )
        known = tensor.is_floating_point() and not tensor.is_meta
        if known and not _is_finite(tensor) and not is_mask(tensor):
            raise ValueError(
                f"an input of shape {tuple(tensor.shape)} holds NaN or infinite numbers, which "
                "have no moments; give finite ones."
            )
    refuse_lazy(model)
    for name, parameter in model.named_parameters() if finite else ():
        known = parameter.layout is torch.strided and not parameter.is_meta
        if known and not _is_finite(parameter.detach()):
            raise ValueError(
                f"the parameter {name!r} holds NaN or infinite numbers: nothing can be predicted "
                "behind it; give a model with finite ones."
            )


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are; a sum that is finite has no other terms."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _entries(
    reading: Reading,
    translator: Translator,
    calls: Sequence[Call],
    drawn: set[int],
    choice: Choice,
) -> dict[str, SignalState]:
    """States of what data enters by: inputs, and tensors that the model holds for a signal."""
    states: dict[str, SignalState] = {}
    unlike = Unlike(t for t in translator.given.values() if id(t) not in drawn)
    for call in calls:
        step = reading.steps[call.name]
        if step.what == "input":
            tensor = translator.given[step]
            if (told := unlike.state(tensor)) is not None and choice == Choice():
                states[call.name] = told
                continue
        elif step.what == "source":
            tensor = translator.tensor(step.args[0])
        else:
            continue
        channel = _channel_dim(reading, call.name, tensor.dim())
        full = _full_dims(tensor, channel, choice)
        if tensor.is_meta or id(tensor) in drawn:
            state = from_moments(tuple(tensor.shape), 1.0)
            for dim in full:
                state = with_position_axis(state, state.places(dim).start)
            states[call.name] = state
        else:
            states[call.name] = from_values(tensor.detach().double().cpu().numpy(), full)
    return states


def _lags(
    reading: Reading, translator: Translator, calls: Sequence[Call], drawn: set[int]
) -> dict[str, Seen]:
    """What neighbours have in common in the inputs that pools come behind."""
    found: dict[str, Seen] = {}
    for name, values in _seen(reading, translator, before_pools(calls), drawn):
        lags = lags_of(values)
        if lags is not None:
            found[name] = Seen(lags, roughness_of(values))
    return found


def _sizes(
    reading: Reading, translator: Translator, calls: Sequence[Call], drawn: set[int]
) -> dict[str, np.ndarray]:
    """Where in space inputs of convolutions are how large."""
    given = _seen(reading, translator, _read_by_kernels(calls), drawn)
    return {name: places_of(values) for name, values in given if values.any()}


def _spans(
    reading: Reading, translator: Translator, calls: Sequence[Call], drawn: set[int]
) -> dict[str, np.ndarray]:
    """How few directions inputs of convolutions span, where norms come behind."""
    if not any(call.kind == "normalization" for call in calls):
        return {}
    given = _seen(reading, translator, _read_by_kernels(calls), drawn)
    spans = {name: span_of(values) for name, values in given}
    return {name: span for name, span in spans.items() if span is not None}


def _read_by_kernels(calls: Sequence[Call]) -> set[str]:
    return {call.inputs[0] for call in calls if call.operation.startswith("conv") and call.inputs}


def _seen(
    reading: Reading, translator: Translator, names: Collection[str], drawn: set[int]
) -> Iterator[tuple[str, np.ndarray]]:
    """Those of the named inputs that have values and places."""
    for name in sorted(names):
        step = reading.steps[name]
        if step.what == "input":
            tensor = translator.given[step]
            known = tensor.is_floating_point() and not tensor.is_meta and id(tensor) not in drawn
            if known and tensor.dim() > 2:
                yield name, tensor.detach().double().cpu().numpy()


def _full_dims(tensor: Tensor, channel: int, choice: Choice) -> list[int]:
    """The dimensions of an input whose entries are told apart."""
    dims: list[int] = []
    pairs = 1
    wanted = [channel] if choice.weights == "actual" and tensor.dim() else []
    if choice.positions == "full":
        wanted += [d for d in range(1, tensor.dim()) if d != channel]
    if choice.samples == "full" and tensor.dim() > 1:
        wanted.append(0)
    for dim in wanted:
        size = tensor.shape[dim]
        if pairs * size**2 <= MOST_PAIRS:
            dims.append(dim)
            pairs *= size**2
    return dims


def _channel_dim(reading: Reading, name: str, dims: int) -> int:
    """The dimension of channels: what the first weight behind sums over, else the last."""
    reached = {name}
    for node in reading.graph.nodes:
        if node.name in reached or not reached & set(node.inputs):
            continue
        if node.kind == "weight":
            spatial = int(node.operation[-2]) if node.operation.startswith("conv") else 0
            return max(dims - spatial - 1, 0)
        reached.add(node.name)
    return max(dims - 1, 0)


def _cotangents(reading: Reading, calls: Sequence[Call]) -> dict[str, Any]:
    """A gradient of mean square 1 at each output."""
    shapes = {call.name: call.shape for call in calls}
    output = reading.graph.nodes[-1]
    return {
        name: from_moments(shapes[name] or (), 1.0)
        for name in output.inputs
        if name in shapes and shapes[name] is not None
    }
