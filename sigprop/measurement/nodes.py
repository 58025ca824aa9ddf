"""``measure_nodes``: second moments of what leaves each node of a model's graph, and of gradients.

One forward pass under the recorder that writes the graph, so that names agree with
``reading.record``, and one backward pass of Σ Rᵢ·outputᵢ with normal Rᵢ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from sigprop.checks import count
from sigprop.graph import Graph
from sigprop.measurement.backward import NEEDS_ITS_OWN_GRAPH, REENTRANT, sources, thawed
from sigprop.measurement.hooks import ONE_AT_A_TIME
from sigprop.reading.build import build
from sigprop.reading.calling import (
    check_model,
    cloned,
    cotangent,
    described,
    flatten,
    unwrapped,
    with_gradient,
)
from sigprop.reading.failures import errors_named
from sigprop.reading.random_states import own_generator
from sigprop.reading.running import record_steps
from sigprop.reading.steps import Step
from sigprop.reading.used import Reading
from sigprop.reading.witness import Witness, Witnesses, moments
from sigprop.records import Row
from sigprop.results import Result, Shown


@dataclass(frozen=True)
class NodeMoments(Result):
    """What was seen at one node of the graph; moments are over all entries, in float64.

    Attributes:
        name: of the node in the graph.
        kind: of the node.
        operation: of the node.
        shape: of the tensor that leaves it; of several, of the first.
        mean: of its entries; None where it holds no floating-point numbers, or where the node
            stands for a part of one torch function (the −x in c − x) and nobody made the tensor.
        q: mean of their squares; None likewise.
        gradient: mean square of the gradient of the loss with respect to the tensor; 0 where
            exactly zero arrives, None where none does. Of complex numbers real and imaginary parts
            are entries, here as above.
    """

    name: str
    kind: str
    operation: str
    shape: tuple[int, ...] | None
    mean: float | None
    q: float | None
    gradient: float | None


@dataclass(frozen=True)
class NodeStatistics(Result):
    """Every node of one run in the order of the data. Prints as a table.

    Attributes:
        nodes: one :class:`NodeMoments` a node of the graph.
        parameters: mean square of the gradient by each parameter, by its name (a tied one stands
            once); None where none arrives.
        reading: the graph with the steps behind it.
    """

    nodes: tuple[NodeMoments, ...]
    parameters: Mapping[str, float | None]
    reading: Reading

    @property
    def graph(self) -> Graph:
        """The graph, as ``reading.record`` returns it."""
        return self.reading.graph

    @cached_property
    def by_name(self) -> dict[str, NodeMoments]:
        """Nodes by name."""
        return {node.name: node for node in self.nodes}

    def __getitem__(self, name: str) -> NodeMoments:
        """A node by name."""
        if name not in self.by_name:
            raise KeyError(f"no node {name!r}; there are {', '.join(self.by_name)}")
        return self.by_name[name]

    def records(self) -> list[Row]:
        """One flat row a node."""
        return [asdict(node) for node in self.nodes]

    def _shown(self) -> Shown:
        columns = {"name": "", "kind": "", "mean": ".3g", "q": ".4g", "gradient": ".4g"}
        return Shown(rows=self.records(), columns=columns)


def measure_nodes(
    model: nn.Module, *inputs: Any, cotangent_seed: int = 0, gradients: bool = True, **kwargs: Any
) -> NodeStatistics:
    """Measure second moments of what leaves every node, and of the gradients there.

    The loss is Σ ⟨output, R⟩ over all floating-point outputs, each R standard normal and rescaled
    to mean square 1. The gradient at a tensor is that of the tensor as the node made it, also where
    it is overwritten later. Frozen parameters count as if they were not.

    The model is given back as it was: parameters, their ``.grad``, buffers, hooks, attributes,
    mode, random states. Several threads may measure; they wait for each other.

    Args:
        model: any module; it runs in the mode (train or eval) it is in.
        inputs: what it is called with.
        cotangent_seed: R is drawn from it; 0 or more.
        gradients: whether to run a backward pass.
        kwargs: keyword arguments the model is called with.

    Returns:
        Each node of the graph that ``reading.record`` returns for the same call, by the same name;
        each parameter's gradient ({} without gradients).

    Raises:
        TypeError: not a module, or a seed that is no integer.
        ValueError: what cannot be recorded, by name; a backward pass of nothing; a seed below 0.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 8, bias=False), nn.ReLU(), nn.Linear(8, 2))
        >>> seen = measure_nodes(net, torch.ones(5, 3))
        >>> [node.name for node in seen.nodes], list(seen.parameters)
        (['input', '0', '1', '2', 'output'], ['0.weight', '2.weight', '2.bias'])
        >>> round(seen["2"].gradient, 6)
        1.0
    """
    seed = count("cotangent_seed", cotangent_seed, minimum=0)
    check_model(model)
    lone = len(inputs) == 1 and not isinstance(inputs[0], tuple)
    example = inputs[0] if lone else inputs
    named = nullcontext() if kwargs else errors_named(model, example)
    with named:
        return watched_nodes(model, inputs, kwargs, cotangent_seed=seed, gradients=gradients)[0]


def watched_nodes(
    model: nn.Module,
    inputs: Sequence[Any],
    kwargs: Mapping[str, Any],
    watch: Callable[[], Sequence[Witness]] = tuple,
    *,
    cotangent_seed: int = 0,
    gradients: bool = True,
) -> tuple[NodeStatistics, Sequence[Witness]]:
    """:func:`measure_nodes`, with others that look on in the same run.

    Args:
        model: see :func:`measure_nodes`.
        inputs: positional arguments of the model.
        kwargs: its keyword arguments.
        watch: makes those who look on, anew for each run that is begun. They are told that the
            model has returned when the backward pass is over.
        cotangent_seed: see :func:`measure_nodes`.
        gradients: see :func:`measure_nodes`.

    Returns:
        What was measured, and those who looked on.
    """
    check_model(model)
    model = unwrapped(model)
    own_graph = reentrant = False
    with ONE_AT_A_TIME:
        while True:
            witness = _GradientWitness(model, cotangent_seed, own_graph, reentrant)
            watching = watch()
            seen = witness if gradients else None
            try:
                return _measured(model, inputs, kwargs, seen, watching), watching
            except RuntimeError as error:
                known = own_graph, reentrant
                own_graph |= gradients and any(w in str(error) for w in NEEDS_ITS_OWN_GRAPH)
                reentrant |= gradients and REENTRANT in str(error)
                if known == (own_graph, reentrant):
                    raise
            finally:
                witness.close()


def _measured(
    model: nn.Module,
    inputs: Any,
    kwargs: Any,
    witness: _GradientWitness | None,
    watching: Sequence[Witness],
) -> NodeStatistics:
    """One run."""
    all_of_them = Witnesses(witness or Witness(), *watching)
    frozen = model.parameters() if witness is not None else ()
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), thawed(frozen):
        recorder, ends = record_steps(model, inputs, kwargs, measure=True, witness=all_of_them)
        reading = build(model, recorder.steps, ends, list(recorder.cuts))
    seen = witness or _GradientWitness(model, 0)
    nodes = [
        NodeMoments(
            node.name,
            node.kind,
            node.operation,
            node.shape,
            None if node.measured is None else node.measured.mean,
            None if node.measured is None else node.measured.q,
            seen.gradient(reading.steps.get(node.name)),
        )
        for node in reading.graph.nodes
    ]
    nodes[-1] = _output(nodes[-1], ends, seen)
    return NodeStatistics(tuple(nodes), seen.parameters, reading)


def _output(node: NodeMoments, ends: list[Step], seen: _GradientWitness) -> NodeMoments:
    """The node of the output: all tensors that leave the model, by their entries."""
    made = [(step.measured, _size(step)) for step in ends if step.measured is not None]
    total = sum(size for _, size in made)
    if not total:
        return node
    mean, q = (
        sum(getattr(found, name) * size for found, size in made) / total for name in ("mean", "q")
    )
    gradient = 1.0 if seen.targets else None
    return NodeMoments(node.name, node.kind, node.operation, None, mean, q, gradient)


def _size(step: Step) -> int:
    return int(torch.Size(step.shape or ()).numel())


@dataclass
class _GradientWitness(Witness):
    """Hangs a hook on each tensor when it is made, and runs the backward pass at the end.

    Attributes:
        model: what is run.
        seed: of the cotangent.
        own_graph: whether the model differentiates by its own input, which then is no leaf of ours.
        reentrant: whether torch must run a whole backward pass.
        sizes: mean square of the gradient at what each step made.
        parts: gradients at views, as far as they have arrived.
        views: steps that made a view and wrote nothing, with what it is a view of.
        parameters: mean squares of gradients.
        targets: outputs that the loss is made of.
    """

    model: nn.Module
    seed: int
    own_graph: bool = False
    reentrant: bool = False
    sizes: dict[Step, float] = field(default_factory=dict)
    parts: dict[Step, Tensor] = field(default_factory=dict)
    views: dict[Step, tuple[Tensor, Callable[[Tensor], Tensor]]] = field(default_factory=dict)
    parameters: dict[str, float | None] = field(default_factory=dict)
    targets: list[Tensor] = field(default_factory=list)
    leaves: list[Tensor] = field(default_factory=list)
    edges: list[GradientEdge] = field(default_factory=list)
    handles: list[RemovableHandle] = field(default_factory=list)

    def gradient(self, step: Step | None) -> float | None:
        """Mean square of the gradient at what a step made."""
        return None if step is None else self.sizes.get(step)

    def inputs(self, given: Any) -> Any:
        """Copies of the inputs that lead to leaves, so that a model may overwrite them."""
        return cloned(given) if self.own_graph else with_gradient(given, self.leaves)

    def made(self, step: Step, tensor: Tensor) -> None:
        """Hang a hook on a tensor before it changes."""
        if not tensor.requires_grad:
            return
        self.edges.append(get_gradient_edge(tensor))
        base = tensor._base if tensor._is_view() else None
        if base is not None and step.written:
            self._written_through_view(step, tensor, base)
            return
        if base is not None:
            self.views[step] = base, _part_of(base, tensor)
        hooked: Any = tensor
        self.handles.append(
            hooked.register_hook(lambda grad: self._see(step, grad, base is not None))
        )

    def _written_through_view(self, step: Step, view: Tensor, base: Tensor) -> None:
        """Hang a hook on autograd's node of a write into a view of ``base``.

        The gradients at the view, before and after, are parts of those at the base before and
        after: autograd hands them on inside that one node, past every hook at the view itself and
        at the views that it is a view of.
        """
        part, before = _part_of(base, view), []
        source = step.args[0] if step.args else None
        while source in self.views and self.views[source][0] is base:
            before.append((source, self.views[source][1]))
            source = source.args[0] if source.args else None

        def hook(entering: Any, arriving: Any) -> None:
            self._see(step, None if arriving[0] is None else part(arriving[0]))
            for each, place in before:
                self._see(each, None if entering[0] is None else place(entering[0]))

        writing: Any = base.grad_fn
        self.handles.append(writing.register_hook(hook))

    def _see(self, step: Step, grad: Tensor | None, view: bool = True) -> None:
        """A gradient has arrived; at a view it may be one of several, to be added up."""
        if grad is None:
            return
        if view:
            before = self.parts.get(step)
            grad = self.parts[step] = grad.detach() if before is None else before + grad.detach()
        self.sizes[step] = moments(grad).q

    def returned(self, out: Any) -> None:
        """Run the backward pass."""
        outputs = [t for t in flatten(out) if t.is_floating_point() and t.numel()]
        self.targets = [t for t in outputs if t.requires_grad]
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        start = sources([*named.values(), *self.leaves], self.edges)
        if not self.targets or not start:
            raise ValueError(
                f"there is no gradient to measure: the model's output ({described(out)}) is not a "
                "real tensor that depends, through operations torch can differentiate, on a "
                "floating-point input or a parameter. For the signal alone, pass gradients=False."
            )
        source = own_generator(self.seed)
        self.sizes.clear()  # of backward passes within the forward pass
        self.parts.clear()
        cotangents = [_of_size_one(cotangent(t, source)) for t in self.targets]
        if self.reentrant:
            found = self._whole_backward(list(named.values()), cotangents)
        else:
            found = torch.autograd.grad(self.targets, start, cotangents, allow_unused=True)
        self.parameters = {
            name: None if grad is None else _mean_square(grad)
            for name, grad in zip(named, found, strict=False)
        }

    def _whole_backward(
        self, parameters: list[nn.Parameter], cotangents: list[Tensor]
    ) -> tuple[Tensor | None, ...]:
        """The backward pass that reentrant checkpoints ask for; ``.grad`` is put back after it."""
        kept = [parameter.grad for parameter in parameters]
        try:
            for parameter in parameters:
                parameter.grad = None
            torch.autograd.backward(self.targets, cotangents)
            return tuple(parameter.grad for parameter in parameters)
        finally:
            for parameter, grad in zip(parameters, kept, strict=True):
                parameter.grad = grad

    def close(self) -> None:
        """Take the hooks off parameters, which outlive the run, and let tensors go."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self.parts.clear()
        self.views.clear()
        self.edges.clear()
        self.targets.clear()
        self.leaves.clear()


def _part_of(base: Tensor, view: Tensor) -> Callable[[Tensor], Tensor]:
    """From the gradient at a tensor, that at a view of it that was written into.

    Autograd hands the latter on inside one node of the base, where no hook can stand.
    """
    room = base.shape, base.stride()
    place = view.shape, view.stride(), view.storage_offset() - base.storage_offset()

    def part(grad: Tensor) -> Tensor:
        whole = torch.empty_strided(*room, dtype=grad.dtype, device=grad.device)
        return whole.copy_(grad).as_strided(*place)

    return part


def _of_size_one(drawn: Tensor) -> Tensor:
    """The same numbers with mean square 1."""
    return drawn / drawn.double().square().mean().sqrt().to(drawn)


def _mean_square(grad: Tensor) -> float:
    """Mean square over all entries, also of a sparse gradient."""
    if grad.layout is torch.strided:
        return moments(grad).q
    values = grad.coalesce().values()
    return moments(values).q * values.numel() / max(grad.numel(), 1)
