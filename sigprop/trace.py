"""From a torch model to a :class:`sigprop.graph.Graph`, by following the data with torch.fx."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from torch import fx, nn

from sigprop.graph import ADVICE, Graph, Kind, Node, Slopes, word_set
from sigprop.layers import (
    LEAKY_MODULES,
    WEIGHT_LAYERS,
    fans,
    module_slopes,
    random_slope,
    tensor_slopes,
)
from sigprop.recognize import TESTS, with_records

_MODULE_KINDS: dict[str, Kind] = {
    "torch.nn.modules.activation": "activation",
    **dict.fromkeys(
        (
            f"torch.nn.modules.{name}"
            for name in (
                "batchnorm", "channelshuffle", "dropout", "flatten", "fold", "instancenorm",
                "normalization", "padding", "pixelshuffle", "pooling", "upsampling",
            )
        ),
        "pass",
    ),
    "torch.nn.modules.sparse": "input",  # embeddings: rows of a table are data
    "sigprop.nn.elementwise": "activation",
    "sigprop.nn.rectifiers": "activation",
}  # fmt: skip


PASSES = word_set(
    """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d alpha_dropout amax avg_pool1d avg_pool2d avg_pool3d
    batch_norm bfloat16 chunk clone contiguous cpu cuda detach diagonal double dropout dropout1d
    dropout2d dropout3d expand expand_as feature_alpha_dropout flatten flip float fold
    fractional_max_pool2d fractional_max_pool3d gather getitem group_norm half index_select
    instance_norm interpolate layer_norm local_response_norm lp_pool1d lp_pool2d max_pool1d
    max_pool2d max_pool3d mean moveaxis movedim narrow neg normalize pad permute pixel_shuffle
    pixel_unshuffle ravel repeat repeat_interleave requires_grad_ reshape reshape_as rms_norm roll
    select split split_with_sizes squeeze stochastic_depth swapaxes swapdims t tensor_split to
    transpose type type_as unbind unflatten unfold unsqueeze upsample view view_as
    """
)
JOINS = word_set(
    """
    add add_ addcmul cat concat concatenate div div_ dstack hstack iadd imul isub itruediv lerp mul
    mul_ multiply stack sub sub_ subtract true_divide truediv vstack
    """
)
_CONSTANTS = word_set(
    """
    _assert _assert_is_none arange dim empty empty_like eq floordiv full full_like ge gt le len
    lt ne ndimension new_empty new_full new_ones new_zeros numel ones ones_like rand rand_like randn
    randn_like shape size zeros zeros_like
    """
)
_OUTSIDE = word_set(
    """
    celu elu elu_ erf exp expit gelu glu hardshrink hardsigmoid hardswish hardtanh hardtanh_
    log_softmax logsigmoid mish pow relu6 selu selu_ sigmoid sigmoid_ silu sin softmax softmin
    softplus softshrink softsign special_erf special_expit square sqrt tanh tanh_ tanhshrink
    threshold
    """
)
_FUNCTION_HOMES = ("torch", "_operator", "math", "builtins")


def trace(model: nn.Module, *, records: bool = False) -> Graph:
    """Follow the data through a model and return what it meets, as plain data.

    Works without an example input, in the model's present mode (training or evaluation); arguments
    of ``forward`` with a plain default (None, a number, a flag, text) keep it. Modules of the
    torch.nn namespace, weight layers, leaky activations (subclasses too) and the activations of
    ``sigprop.nn`` are single nodes, your own modules are followed inside, without their hooks. The
    model is left as it was.

    Args:
        model: any module whose ``forward`` torch.fx can follow (no branching on values).
        records: whether activations get their records, and elementwise expressions of one signal
            that no step alone describes, such as x·σ(x), become one activation.

    Raises:
        TypeError: not a module.
        ValueError: ``forward`` cannot be followed; the message carries torch.fx's reason.

    Example:
        >>> graph = trace(nn.Sequential(nn.Linear(3, 8), nn.PReLU(), nn.Linear(8, 2)))
        >>> [(node.module, node.kind) for node in graph.nodes][1:4]
        [('0', 'weight'), ('1', 'activation'), ('2', 'weight')]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"trace takes a torch.nn.Module; got {type(model).__name__}.")
    if isinstance(model, WEIGHT_LAYERS):
        layer = _module_node("layer", model, "", ("x",))
        output = Node("output", "output", "output", ("layer",))
        return Graph((Node("x", "input", "input"), layer, output))
    with followed(model, Tracer()) as (model, steps):
        nodes: dict[str, Node] = {}
        for step in steps.nodes:
            nodes[step.name] = _node(step, model, nodes)
        nodes = with_records(steps, model, nodes) if records else _gates_unknown(nodes)
        return Graph(tuple(nodes.values()))


@contextlib.contextmanager
def followed(
    model: nn.Module, tracer: fx.Tracer, advice: str = ADVICE
) -> Iterator[tuple[nn.Module, fx.Graph]]:
    """The model without its wrappers and what torch.fx sees in it; afterwards it is as it was.

    Raises:
        ValueError: ``forward`` cannot be followed; the message carries torch.fx's reason.
    """
    model = unwrapped(model)
    with _left_as_it_was(model):
        try:
            steps = tracer.trace(model, concrete_args=defaults(model))
        except Exception as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(
                f"cannot follow the data through {type(model).__name__} with torch.fx: {reason}. "
                f"{advice}".rstrip()
            ) from error
        yield model, steps


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of torch.compile and of (distributed) data parallelism."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    inside = getattr(model, "_orig_mod", None)
    return unwrapped(inside) if isinstance(inside, nn.Module) else model


class Tracer(fx.Tracer):
    """Sees torch's layers and the activations of this package as single steps, and no hooks."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one step."""
        if isinstance(m, WEIGHT_LAYERS) or _is_leaky(m) or _is_ours(m):
            return True
        return bool(super().is_leaf_module(m, module_qualified_name))

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Step into a module without running the hooks that others have put on it."""
        if self.is_leaf_module(m, self.path_of_module(m)):
            return super().call_module(m, forward, args, kwargs)
        return m.forward(*args, **kwargs)


def _node(step: fx.Node, model: nn.Module, before: dict[str, Node]) -> Node:
    if step.op == "placeholder":
        return Node(step.name, "input", "input")
    if step.op == "get_attr":
        return Node(step.name, "constant", str(step.target))
    inputs = tuple(dict.fromkeys(taken.name for taken in step.all_input_nodes))
    if step.op == "output":
        return Node(step.name, "output", "output", inputs)
    if step.op == "call_module":
        path = str(step.target)
        return _module_node(step.name, model.get_submodule(path), path, inputs)
    if inputs and all(before[name].kind == "constant" for name in inputs):
        return Node(step.name, "constant", function_name(step), inputs)
    return _function_node(step, inputs, model)


def _gates_unknown(nodes: dict[str, Node]) -> dict[str, Node]:
    """Joins with the answer of a test on the data, as in x·(x > 0), are nothing known."""
    answers: set[str] = set()
    for node in nodes.values():
        tests = node.operation in TESTS and any(nodes[i].kind != "constant" for i in node.inputs)
        if node.kind == "constant" and (tests or answers & set(node.inputs)):
            answers.add(node.name)
    return {
        name: replace(node, kind="unknown")
        if node.kind == "join" and answers & set(node.inputs)
        else node
        for name, node in nodes.items()
    }


def _module_node(name: str, module: nn.Module, path: str, inputs: tuple[str, ...]) -> Node:
    operation = type(module).__name__
    if isinstance(module, WEIGHT_LAYERS):
        base = next(c for c in type(module).__mro__ if c in WEIGHT_LAYERS)
        weight = module._parameters.get("weight")
        if weight is None or isinstance(weight, nn.UninitializedParameter):
            return Node(name, "weight", base.__name__, inputs, path)
        shape = tuple(weight.shape)
        return Node(name, "weight", base.__name__, inputs, path, shape, fans(module))
    if _is_leaky(module):
        return Node(name, "activation", operation, inputs, path, alpha=module_slopes(module))
    if isinstance(module, nn.Identity):
        return Node(name, "pass", operation, inputs, path)
    if isinstance(module, nn.MultiheadAttention):
        return Node(name, "unknown", operation, inputs, path)
    homes = [c.__module__ for c in type(module).__mro__]
    kind: Kind = next((_MODULE_KINDS[home] for home in homes if home in _MODULE_KINDS), "unknown")
    return Node(name, kind, operation, inputs, path)


def _is_leaky(module: nn.Module) -> bool:
    """Whether it is an activation of the family with the family's own forward."""
    return any(
        isinstance(module, base) and type(module).forward is base.forward for base in LEAKY_MODULES
    )


def _is_ours(module: nn.Module) -> bool:
    """Whether it is an activation of ``sigprop.nn`` with that module's own forward."""
    home = type(module).forward.__module__
    return home.startswith("sigprop.nn.") and home in _MODULE_KINDS


def _function_node(step: fx.Node, inputs: tuple[str, ...], model: nn.Module) -> Node:
    operation = function_name(step)
    if operation == "getattr":
        moved = len(step.args) > 1 and step.args[1] in ("T", "mT", "H", "mH", "data")
        return Node(step.name, "pass" if moved else "constant", str(step.args[1]), inputs)
    if operation in _CONSTANTS:
        return Node(step.name, "constant", operation, inputs)
    if operation in PASSES:
        return Node(step.name, "pass", operation, inputs[:1])
    if operation in JOINS:
        return Node(step.name, "join", operation, inputs)
    known, alpha = _function_slopes(operation, step, model)
    kind: Kind = "activation" if known else "unknown"
    return Node(step.name, kind, operation, inputs[:1] if known else inputs, alpha=alpha)


def function_name(step: fx.Node) -> str:
    """The name of a function or method; one from outside torch has its home before it."""
    if step.op == "call_method":
        return str(step.target)
    home = (getattr(step.target, "__module__", None) or "").split(".")[0]
    name = str(getattr(step.target, "__name__", step.target))
    if home not in _FUNCTION_HOMES and name != "stochastic_depth":
        return f"{home}.{name}"
    return name


def _function_slopes(operation: str, step: fx.Node, model: nn.Module) -> tuple[bool, Slopes | None]:
    """Whether a function is an activation, and its slopes if it is of the family."""
    name = operation.removesuffix("_")
    if name == "relu":
        return True, (0.0,)
    if name in ("abs", "absolute"):
        return True, (-1.0,)
    if name == "leaky_relu":
        return True, _slope_of(_argument(step, 1, "negative_slope", 0.01))
    if name == "rrelu":
        ends = (_argument(step, 1, "lower", 1 / 8), _argument(step, 2, "upper", 1 / 3))
        return True, random_slope(*ends) if all(
            isinstance(end, float | int) for end in ends
        ) else None
    if name == "prelu":
        return True, _slope_of(_argument(step, 1, "weight", None), model)
    if name in ("clamp", "clip", "clamp_min"):
        low, high = _argument(step, 1, "min", None), _argument(step, 2, "max", None)
        return True, (0.0,) if low == 0 and high is None else None
    return operation in _OUTSIDE, None


def _slope_of(value: Any, model: nn.Module | None = None) -> Slopes | None:
    if isinstance(value, float | int):
        return (float(value),)
    if model is not None and isinstance(value, fx.Node) and value.op == "get_attr":
        path, _, attribute = str(value.target).rpartition(".")
        return tensor_slopes(getattr(model.get_submodule(path), attribute))
    return None


def _argument(step: fx.Node, position: int, keyword: str, default: Any) -> Any:
    if len(step.args) > position:
        return step.args[position]
    return step.kwargs.get(keyword, default)


def defaults(model: nn.Module) -> dict[str, Any]:
    """Arguments of ``forward`` that keep their plain default."""
    parameters = inspect.signature(model.forward).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.default is None or isinstance(parameter.default, bool | int | float | str)
    }


@contextlib.contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Undo what following the data may leave: attributes set in forward, fx's constants."""
    modules = list(model.modules())
    held: list[dict[str, Any]] = [
        table for m in modules for table in (vars(m), m._buffers, m._parameters)
    ]
    kept = [dict(table) for table in held]
    try:
        yield
    finally:
        for now, before in zip(held, kept, strict=True):
            if now.keys() != before.keys() or any(now[k] is not before[k] for k in before):
                now.clear()
                now.update(before)
