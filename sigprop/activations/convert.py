"""From whatever the user has (a name, a torch module or class, a callable) to a record."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sigprop.activations.differentiate import numeric_derivative
from sigprop.activations.record import Activation, Function
from sigprop.activations.table import ACTIVATIONS, activation
from sigprop.checks import FloatArray, real_array, shown

PROBES = np.concatenate([np.linspace(-40.0, 40.0, 321), np.linspace(-1.013, 1.019, 64)])
_SPELLED = {"alpha": ("negative_slope", "weight")}  # parameter → torch's names for it


def as_activation(
    thing: Any, *, breakpoints: ArrayLike | None = None, name: str | None = None, **parameters: Any
) -> Activation:
    """The record of anything that is an activation: how every function here reads one.

    - A name, as in ``ACTIVATIONS`` or as torch spells it (``"LeakyReLU"``), with parameters:
      ``as_activation("leaky_relu", alpha=0.2)``; ``negative_slope`` is read as ``alpha``.
    - A record, a torch module or a module class of the table: the row with its parameters
      (``nn.Softplus`` is read without torch's cut-off at 20, which costs 2e-9; ``nn.RReLU`` and
      ``RandomLeakyReLU`` according to their mode, training or evaluation).
    - A module with a method ``slopes()``, whatever its class: ``prelu`` with these slopes.
    - Any other torch module or callable on tensors: run in float64, differentiated by autograd.
    - Any vectorised numpy callable: differentiated by a complex step where the callable allows it
      (error near 1e-15), else by the polynomials that it is between ±100 (near 1e-12), and beyond,
      or where its values are rougher than floats, by differences of order six (near 1e-11);
      ``df_error`` of the record is an estimate.

    Args:
        thing: what the user has.
        breakpoints: of a callable: where it or its slope jumps; None: searched for.
        name: of a callable: what to call it.
        parameters: of a name: its numbers.

    Raises:
        TypeError: not an activation; a callable that is not elementwise, not deterministic or does
            not return float64; parameters of anything but a name.
        ValueError: an unknown name, NaN or infinite values, a wrong shape.

    Example:
        >>> record = as_activation(lambda z: z * np.tanh(z), name="ztanh")
        >>> record.name, round(float(record.df(np.array(1.0))), 12)
        ('ztanh', 1.18156849757)
    """
    torch = sys.modules.get("torch")  # a thing of torch's can only be where torch is loaded
    module = torch is not None and (
        isinstance(thing, torch.nn.Module)
        or (isinstance(thing, type) and issubclass(thing, torch.nn.Module))
    )
    if parameters and not isinstance(thing, str):
        key, value = next(iter(parameters.items()))
        raise TypeError(
            f"{key} goes with the name of an activation, as in activation='leaky_relu', "
            f"{key}={shown(value)}; {shown(thing)} has its own."
        )
    if isinstance(thing, str | Activation) or module:
        known = _of_table(thing, torch, parameters)
        if known is not None:
            if breakpoints is not None or name is not None:
                raise TypeError(
                    f"breakpoints and name belong to a callable; {known.name!r} has its own."
                )
            return known
    if isinstance(thing, type) and module:
        thing = _instance(thing)
    if not callable(thing):
        raise TypeError(
            "an activation is a name, a torch module or class, a sigprop Activation or a "
            f"vectorised callable; got {type(thing).__name__}."
        )
    label = str(name or getattr(thing, "__name__", type(thing).__name__))
    f, gradient = _runnable(thing, label, torch, module)
    _probe(f, label)
    points, jumps, features = _breakpoints(f, breakpoints)
    if gradient is None:
        df, error = numeric_derivative(f, thing, points, features, PROBES)
    else:
        df, error = gradient, 0.0
    return Activation(
        label, f, df, breakpoints=points, jumps=jumps, df_error=error, features=features
    )


def _of_table(thing: Any, torch: Any, parameters: dict[str, Any]) -> Activation | None:
    """The record of a name, a record or a module that the table knows."""
    if isinstance(thing, Activation):
        return thing
    if isinstance(thing, str):
        return activation(thing, **parameters)
    module = _instance(thing) if isinstance(thing, type) else thing
    if callable(getattr(type(module), "slopes", None)):
        return activation("prelu", alpha=_numbers(module.slopes()))
    if _is_of(module, "torch.nn.Threshold") and module.threshold == module.value == 0:
        return activation("relu")
    for row in ACTIVATIONS:
        record = activation(row)
        if not _is_of(module, record.torch_path):
            continue
        fixed = {k: v for k, v in record.torch_arguments.items() if isinstance(v, str)}
        if any(getattr(module, key) != value for key, value in fixed.items()):
            continue
        given = {key: _read(module, key) for key in record.parameters}
        if record.kind == "random" and not module.training:
            row = "rrelu_eval"
        return activation(row, **given)
    return None


def _instance(cls: type) -> Any:
    try:
        return cls()
    except TypeError as error:
        raise TypeError(f"{cls.__name__} needs arguments; give a module, not its class.") from error


def _is_of(module: Any, path: str) -> bool:
    home, _, name = path.rpartition(".")
    return type(module) is getattr(sys.modules.get(home), name, None)


def _read(module: Any, parameter: str) -> Any:
    for spelled in (*_SPELLED.get(parameter, ()), parameter):
        value = getattr(module, spelled, None)
        if value is not None:
            return _numbers(value)
    raise TypeError(f"{type(module).__name__} has no parameter {parameter!r} to read.")


def _numbers(value: Any) -> Any:
    if getattr(value, "is_meta", False):
        raise ValueError("a parameter on the meta device has no value; materialize it first.")
    array = real_array("parameter", value)
    return float(array.reshape(-1)[0]) if np.unique(array).size == 1 else array


def _runnable(thing: Any, label: str, torch: Any, module: bool) -> tuple[Function, Function | None]:
    """φ on float64 arrays, and its autograd derivative if it is torch's."""
    if not module:
        try:
            with np.errstate(all="ignore"):
                thing(PROBES.copy())
            return _numpy_function(thing, label), None
        except Exception as error:
            if torch is None or not _takes_tensors(thing, torch):
                raise TypeError(
                    f"activation {label!r} fails on a float64 array: {type(error).__name__}: "
                    f"{error}. Give a callable that is vectorised over numpy arrays or tensors."
                ) from error
    else:
        thing = copy.deepcopy(thing).to(device="cpu", dtype=torch.float64)

    def tensor(x: FloatArray) -> Any:
        return torch.tensor(np.asarray(x, dtype=np.float64))

    def f(x: FloatArray) -> FloatArray:
        with torch.no_grad():
            return _checked(_run(thing, tensor(x), label), label, torch)

    def df(x: FloatArray) -> FloatArray:
        with torch.enable_grad():
            t = tensor(x).requires_grad_()
            y = thing(t)
            if not y.requires_grad:
                return np.zeros_like(x)
            (slope,) = torch.autograd.grad(y.sum(), t)
        return _checked(slope, label, torch)

    return f, df


def _run(thing: Any, x: Any, label: str) -> Any:
    """What a torch callable makes of a vector; a module that takes no vector is no activation."""
    try:
        return thing(x)
    except Exception as error:
        raise TypeError(
            f"{label!r} is no activation: on a tensor of shape {tuple(x.shape)} it fails with "
            f"{type(error).__name__}: {error}. An activation acts on every entry by itself."
        ) from error


def _takes_tensors(thing: Callable[..., Any], torch: Any) -> bool:
    try:
        return isinstance(thing(torch.tensor(PROBES)), torch.Tensor)
    except Exception:  # whatever it is, it is no function of tensors
        return False


def _checked(value: Any, label: str, torch: Any) -> FloatArray:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"activation {label!r} must return a tensor; got {type(value).__name__}.")
    if value.dtype != torch.float64:
        raise TypeError(f"activation {label!r} must return float64 for float64; got {value.dtype}.")
    return np.asarray(value.detach().numpy())


def _numpy_function(thing: Callable[..., Any], label: str) -> Function:
    def f(x: FloatArray) -> FloatArray:
        with np.errstate(all="ignore"):
            value = np.asarray(thing(x))
        if value.dtype != np.float64:
            raise TypeError(
                f"activation {label!r} must return float64 for float64; got {value.dtype}."
            )
        return value

    return f


def _probe(f: Function, label: str) -> None:
    """Refuse what is no activation: wrong shape, NaN, not elementwise, not deterministic."""
    values = f(PROBES.copy())
    if values.shape != PROBES.shape:
        raise ValueError(
            f"activation {label!r} must keep the shape; {PROBES.shape} became {values.shape}."
        )
    if not np.isfinite(values).all():
        at = PROBES[~np.isfinite(values)][0]
        bad = "NaN" if np.isnan(values).any() else "an infinite value"
        raise ValueError(f"activation {label!r} returns {bad}, first at x = {at:g}.")
    if not np.array_equal(values, f(PROBES.copy())):
        raise TypeError(f"activation {label!r} returns other values when called again.")
    order = np.random.default_rng(0).permutation(PROBES.size)
    for part in (order, order[: order.size // 2]):
        if not np.allclose(f(PROBES[part]), values[part], rtol=1e-12, atol=1e-12):
            raise TypeError(
                f"activation {label!r} is not elementwise: a value depends on its neighbours."
            )


def _breakpoints(
    f: Function, given: ArrayLike | None
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """The breakpoints, given or searched for, the jumps of φ at them, and what is narrow."""
    from sigprop.gaussian import find_breakpoints

    if given is None:
        found = find_breakpoints(f)
        points, jumps = found.points, found.jumps
    else:
        points = np.unique(real_array("breakpoints", given)) if np.size(given) else np.zeros(0)
        found = find_breakpoints(f, known=points)
        below, above = f(np.nextafter(points, -np.inf)), f(np.nextafter(points, np.inf))
        size = np.maximum(1.0, np.maximum(np.abs(below), np.abs(above)))
        jumps = np.where(np.abs(above - below) > 1e-12 * size, above - below, 0.0)
    return tuple(points.tolist()), tuple(jumps.tolist()), tuple(found.features.tolist())
