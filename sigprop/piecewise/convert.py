"""From a torch model to the network that it is, and where each of its numbers comes from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from numpy.typing import ArrayLike
from torch import Tensor, fx, nn

from sigprop.arrangement.network import PiecewiseLinear
from sigprop.piecewise.builder import Builder, Sources
from sigprop.piecewise.trial import check_values, find_shape, try_out
from sigprop.piecewise.walk import Walk, WalkTracer, is_torchs
from sigprop.reading.calling import attributes_kept, unwrapped
from sigprop.reading.layers import is_whole

ADVICE = (
    "Linear regions belong to networks of affine layers, ReLU-like units and maxima, in evaluation "
    "mode; give another model, or the weights as arrays: regions.PiecewiseLinear(weights, biases, "
    "alpha)."
)


@dataclass(frozen=True, eq=False)
class Conversion:
    """A network with what is known about where its numbers come from.

    Attributes:
        network: the network.
        sources: for each step its numbers by kind, with the entries of the parameters they are.
        lost: names of parameters that became numbers of Python, which may be anywhere.
    """

    network: PiecewiseLinear
    sources: tuple[Sources, ...]
    lost: frozenset[str] = frozenset()

    @property
    def parameters(self) -> tuple[dict[str, tuple[str, ...]], ...]:
        """For each step, by kind of number, the names of the parameters that it comes from."""
        return tuple(
            {
                kind: each.origin.parameters
                for kind, each in numbers.items()
                if each.origin.parameters
            }
            for numbers in self.sources
        )


def to_network(
    model: nn.Module,
    example_input: ArrayLike | Tensor | None = None,
    *,
    input_shape: int | tuple[int, ...] | None = None,
) -> PiecewiseLinear:
    """The network that a torch model is, as arrays in float64.

    Every entry of a linear or convolutional weight is taken as it is, bit for bit, so the result is
    the model in exact arithmetic; ``network(x)`` equals ``model.double()(x)`` to rounding. Batch
    normalization becomes a scale γ/√(σ² + ε) and a shift β − μγ/√(σ² + ε), means the entries 1/n
    and divisions by c the entries 1/c, each rounded to float64. The value at a jump (PhasedReLU,
    threshold, hardshrink) is torch's. Casts between floating-point types are taken
    as the identity. Hooks are not run; the model is left as it was.

    Exact forms are known for linear, convolutional and transposed convolutional layers with any
    padding, batch norm in evaluation, average and adaptive pooling, sums, products with constants,
    everything that moves entries, the ReLU family, clamps, max pooling and maxout, as modules and
    as functions. Where a forward is the user's own, the result is tried against the model on two
    inputs before it is returned, if a copy of the model runs in float64: torch.fx does not see
    everything that Python can do.

    Args:
        model: any module whose ``forward`` torch.fx can follow, in evaluation mode where that
            matters, with one input and one output tensor.
        example_input: one input, without a batch axis; only its shape counts.
        input_shape: that shape itself, or a number of features. If neither is given, the features
            that the first layer takes, where that is an ``nn.Linear``.

    Raises:
        TypeError: not a module; an example or weights that are not real floating-point numbers.
        ValueError: something in the model has no exact piecewise linear form (named, with the
            reason), an unknown input shape, non-finite weights, several inputs or outputs.

    Example:
        >>> net = to_network(nn.Sequential(nn.Linear(3, 8), nn.PReLU(), nn.Linear(8, 2)))
        >>> net
        PiecewiseLinear(3-8-2, 8 kinked units)
        >>> to_network(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), input_shape=(1, 8, 8))
        PiecewiseLinear(64-72, 72 kinked units)
    """
    return convert_model(model, example_input, input_shape=input_shape).network


def convert_model(
    model: nn.Module,
    example_input: ArrayLike | Tensor | None = None,
    *,
    input_shape: int | tuple[int, ...] | None = None,
) -> Conversion:
    """The network that a torch model is, and which parameters its numbers come from.

    Args, exactness and refusals are those of :func:`to_network`.

    Raises:
        TypeError: as there.
        ValueError: as there.

    Example:
        >>> convert_model(nn.Sequential(nn.Linear(3, 8), nn.PReLU(), nn.Linear(8, 2))).parameters
        ({'weight': ('0.weight',), 'bias': ('0.bias',)}, {'slope': ('1.weight',)},
        {'weight': ('2.weight',), 'bias': ('2.bias',)})
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"to_network takes a torch.nn.Module; got {type(model).__name__}.")
    check_values(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    inside = unwrapped(model)
    whole = nn.Sequential(inside) if is_whole(inside) or is_torchs(inside) else inside
    with _followed(whole) as graph:
        shape = find_shape(example_input, input_shape, whole, graph)
        build = Builder((1, *shape))
        output = Walk(build, whole, graph, names, ADVICE).output()
        network, sources = build.network(output)
    try_out(network, model, shape, output.shape, ADVICE)
    return Conversion(network, tuple(sources), frozenset(build.lost))


@contextmanager
def _followed(model: nn.Module) -> Iterator[fx.Graph]:
    """What torch.fx sees in a model; afterwards it is as it was.

    Raises:
        ValueError: ``forward`` cannot be followed; the message carries torch.fx's reason.
    """
    with attributes_kept(model.modules()):
        try:
            graph = WalkTracer().trace(model)
        except Exception as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(
                f"cannot follow the data through {type(model).__name__} with torch.fx: {reason}. "
                f"{ADVICE}"
            ) from error
        yield graph
