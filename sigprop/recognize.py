"""Which record each activation of a traced model has, and which steps together are one activation.

A step of the table is its row. Any other elementwise expression of one signal (x·σ(x), max(0, x)²,
``hardsigmoid``) is run by itself and becomes one node with a record of its own.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from torch import Tensor, fx, nn

from sigprop.activations import Activation, activation, as_activation
from sigprop.graph import PRODUCTS, Node, Slopes, word_set
from sigprop.layers import RANDOM_MODULES

_SAME_NAME = word_set(
    "celu elu erf gelu hardswish hardtanh mish relu6 selu sigmoid silu sin softplus softsign tanh"
)
_OTHER_NAMES = {
    "clamp": "hardtanh",
    "clip": "hardtanh",
    "expit": "sigmoid",
    "special_erf": "erf",
    "special_expit": "sigmoid",
}
_ARGUMENTS: dict[str, tuple[tuple[str, tuple[str, ...], float | None], ...]] = {
    "celu": (("alpha", ("alpha",), 1.0),),
    "elu": (("alpha", ("alpha",), 1.0),),
    "softplus": (("beta", ("beta",), 1.0),),
    "hardtanh": (("min_val", ("min_val", "min"), -1.0), ("max_val", ("max_val", "max"), 1.0)),
}
"""Of a function: (parameter of the row, keywords, default), in the order of its arguments."""
_ARITHMETIC = PRODUCTS | word_set("add add_ iadd sub sub_ subtract isub rsub neg")
TESTS = word_set("gt ge lt le eq ne")
_CASTS = word_set("float double half bfloat16 to type type_as")


def with_records(steps: fx.Graph, model: nn.Module, nodes: dict[str, Node]) -> dict[str, Node]:
    """The nodes with the records of their activations; several steps that are one become one."""
    found = {
        step.name: replace(nodes[step.name], activation=_record(step, nodes[step.name], model))
        if nodes[step.name].kind == "activation"
        else nodes[step.name]
        for step in steps.nodes
    }
    roots, shapes = _expressions(steps, found)
    gone: set[str] = set()
    for step in reversed(list(steps.nodes)):
        if step.name in roots and step.name not in gone and _is_end(step, found, shapes, roots):
            bent = any(shapes.get(before.name) == "bent" for before in step.all_input_nodes)
            gone |= _join_up(step, roots, model, found, bent)
    return {name: node for name, node in found.items() if name not in gone}


def _record(step: fx.Node, node: Node, model: nn.Module) -> Activation | None:
    """The row of a step that the table knows."""
    if step.op == "call_module":
        module = model.get_submodule(str(step.target))
        if isinstance(module, RANDOM_MODULES):  # as it trains, whatever its mode
            row = "rrelu" if isinstance(module, nn.RReLU) else "random_leaky_relu"
            return activation(row, lower=module.lower, upper=module.upper)
        try:
            return as_activation(module)
        except Exception:  # a softmax, a gate: refused where a gain is asked of it
            return None
    if node.alpha is not None:
        return _leaky(node.alpha)
    name = node.operation.removesuffix("_")
    name = _OTHER_NAMES.get(name, name)
    if name not in _SAME_NAME:
        return None
    if name == "gelu" and step.kwargs.get("approximate", "none") != "none":
        name = "gelu_tanh"
    given = {}
    for place, (parameter, keywords, default) in enumerate(_ARGUMENTS.get(name, ()), 1):
        value: Any = step.args[place] if len(step.args) > place else default
        value = next((step.kwargs[key] for key in keywords if key in step.kwargs), value)
        if not isinstance(value, float | int):
            return None
        given[parameter] = value
    if node.operation in ("clamp", "clip") and not _both_ends(step):
        return None
    try:
        return activation(name, **given)
    except ValueError:
        return None


def _leaky(alpha: Slopes) -> Activation:
    if len(alpha) > 1:
        return activation("prelu", alpha=alpha)
    return activation("relu") if alpha[0] == 0 else activation("leaky_relu", alpha=alpha[0])


def _both_ends(step: fx.Node) -> bool:
    ends = [*step.args[1:], *(step.kwargs.get(key) for key in ("min", "max"))]
    return len([end for end in ends if end is not None]) == 2


def _expressions(steps: fx.Graph, nodes: dict[str, Node]) -> tuple[dict[str, str], dict[str, str]]:
    """Of every elementwise step: the one signal that it is a function of, and its shape.

    The shape is "scaled", "shifted" (by a constant, too) or "bent".
    """
    roots: dict[str, str] = {}
    shapes: dict[str, str] = {}
    for step in steps.nodes:
        node = nodes[step.name]
        data = _data(step, nodes, roots)
        met = {roots.get(before.name, before.name) for before in data}
        if len(met) != 1 or not _elementwise(step, node, roots):
            continue
        roots[step.name] = met.pop()
        own = "scaled"
        if node.kind not in ("pass", "join") or _multiplies(node, data):
            own = "bent"
        elif node.kind == "join" and node.operation not in PRODUCTS and len(data) == 1:
            own = "shifted"
        shapes[step.name] = max((own, *(shapes.get(before.name, "") for before in data)), key=_RANK)
    return roots, shapes


_RANK = ("", "scaled", "shifted", "bent").index


def _data(step: fx.Node, nodes: dict[str, Node], roots: dict[str, str]) -> list[fx.Node]:
    """What carries a signal into a step; of constants, the answers of tests on one, as in x > 0."""
    return [
        before
        for before in step.all_input_nodes
        if nodes[before.name].kind != "constant" or before.name in roots
    ]


def _multiplies(node: Node, data: list[fx.Node]) -> bool:
    return node.operation in PRODUCTS and len(data) > 1


def _elementwise(step: fx.Node, node: Node, roots: dict[str, str]) -> bool:
    """Whether a step may act entry by entry; running it decides."""
    if step.op == "call_module":
        return node.kind == "activation"
    if step.op not in ("call_function", "call_method"):
        return False
    if node.kind == "constant":
        known = any(nodes.name in roots for nodes in step.all_input_nodes)
        return node.operation in TESTS or (known and node.operation in _CASTS)
    return node.kind in ("activation", "unknown") or node.operation in _ARITHMETIC


def _is_end(
    step: fx.Node, nodes: dict[str, Node], shapes: dict[str, str], roots: dict[str, str]
) -> bool:
    """Whether an expression may end here: at a step that alone would be misread, or not at all."""
    node, data = nodes[step.name], _data(step, nodes, roots)
    if node.kind == "constant":
        return False
    if node.kind in ("join", "pass"):
        return len(data) > 1 and shapes[step.name] == "bent"
    if node.alpha is not None:  # what only scales its input changes nothing
        return any(shapes.get(before.name) in ("shifted", "bent") for before in data)
    return node.activation is None or any(before.name in roots for before in data)


def _join_up(
    end: fx.Node, roots: dict[str, str], model: nn.Module, nodes: dict[str, Node], bent: bool
) -> set[str]:
    """Make one node of an expression, in place; returns the steps that are part of it alone.

    If that cannot be, the end alone is taken for a leaky unit where its input is not bent, and for
    nothing known elsewhere.
    """
    root = roots[end.name]
    inside, waiting = [], [end]
    while waiting:
        step = waiting.pop()
        inside.append(step)
        waiting += [
            before
            for before in step.all_input_nodes
            if roots.get(before.name) == root and before not in (*inside, *waiting)
        ]
    order = {step: place for place, step in enumerate(end.graph.nodes)}
    inside.sort(key=lambda step: order[step])
    words = "→".join(nodes[step.name].operation for step in inside)
    node = nodes[end.name]
    try:
        record = as_activation(_runner(end, root, model), name=words)
    except Exception:  # not elementwise after all, or it needs more than its signal
        if node.kind == "activation" and (bent or node.alpha is None):
            nodes[end.name] = replace(node, alpha=None, activation=None)
        return set()
    nodes[end.name] = replace(
        node, kind="activation", operation=words, inputs=(root,), alpha=None, activation=record
    )
    gone: set[str] = set()
    for step in reversed(inside[:-1]):
        if all(user is end or user.name in gone for user in step.users):
            gone.add(step.name)
    return gone


def _runner(end: fx.Node, root: str, model: nn.Module) -> Any:
    """The expression as a function of tensors, in float64 on the CPU."""
    modules: dict[str, nn.Module] = {}

    def run(x: Tensor) -> Any:
        if not isinstance(x, Tensor):
            raise TypeError("an expression of tensors")
        values: dict[str, Any] = {}

        def value(step: fx.Node) -> Any:
            if step.name == root:
                return x.clone()
            if step.name not in values:
                values[step.name] = computed(step)
            return values[step.name]

        def computed(step: fx.Node) -> Any:
            args, kwargs = fx.map_arg((step.args, dict(step.kwargs)), value)
            if step.op == "call_function":
                return step.target(*args, **kwargs)  # type: ignore[operator]
            if step.op == "call_method":
                return getattr(args[0], str(step.target))(*args[1:], **kwargs)
            if step.op == "call_module":
                path = str(step.target)
                if path not in modules:
                    modules[path] = copy.deepcopy(model.get_submodule(path)).cpu().double()
                return modules[path](*args, **kwargs)
            if step.op == "get_attr":
                home, _, name = str(step.target).rpartition(".")
                held = getattr(model.get_submodule(home), name)
                return held.detach().cpu().double() if isinstance(held, Tensor) else held
            raise TypeError(f"{step.name} comes from outside")

        return value(end)

    return run
