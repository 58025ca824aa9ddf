"""A second run of a model with few samples, so few that their inputs do not span all columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sigprop.checking.weights.rows import RowsWitness
from sigprop.measurement.nodes import NodeStatistics, watched_nodes
from sigprop.reading.calling import flatten
from sigprop.reading.steps import mapped

SAMPLES = 2
"""Enough for a batch normalization that trains."""


@dataclass(frozen=True)
class Backward:
    """What the backward test needs, or why there is none."""

    statistics: NodeStatistics | None = None
    rows: RowsWitness | None = None
    reason: str = ""


def look_back(
    model: nn.Module, inputs: Sequence[Any], kwargs: Mapping[str, Any], samples: int = SAMPLES
) -> Backward:
    """Run a model again, forward and backward, on the first samples alone; on all if it does not.

    Args:
        model: any module, in the mode it is in.
        inputs: its positional arguments.
        kwargs: its keyword arguments.
        samples: how many, along the first dimension of each tensor that is as long as the batch.
    """
    tensors = [t for t in flatten((tuple(inputs), dict(kwargs))) if t.dim()]
    if not tensors:
        return Backward(reason="no input has a dimension of samples")
    batch = tensors[0].shape[0]

    def few(value: Any) -> Any:
        cut = isinstance(value, Tensor) and value.dim() and value.shape[0] == batch
        return value[:samples] if cut else value

    why = ""
    for cut in (few, lambda value: value):  # the first dimension may count something else
        try:
            statistics, (rows,) = watched_nodes(
                model,
                mapped(tuple(inputs), cut),
                mapped(dict(kwargs), cut),
                lambda: [RowsWitness(backward=True)],
            )
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            first = str(error).partition("\n")[0]
            why = why or f"the model does not run backward on {samples} samples: {first}"
        else:
            assert isinstance(rows, RowsWitness)
            return Backward(statistics, rows)
    return Backward(reason=why)
