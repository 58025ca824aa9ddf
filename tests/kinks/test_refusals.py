"""Bad input to a line: refused, with what was given and what to do."""

import numpy as np
import pytest

from sigprop import kinks
from sigprop.regions import PiecewiseLinear

NET = PiecewiseLinear([np.ones((3, 2)), np.ones((2, 3))], alpha=[0.1, 1.0])
SIZE = 3 * 2 + 3 + 2 * 3 + 2


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"direction": np.zeros(SIZE)}, ValueError, "direction is zero"),
        ({"direction": NET}, ValueError, "same network"),
        ({"direction": np.ones(5)}, ValueError, rf"shape \(5,\); a flat vector .* \({SIZE},\)"),
        ({"direction": [np.ones((3, 2))]}, ValueError, "1 arrays; the model has 4 parameters"),
        ({"direction": {"weights.7": 1}}, ValueError, r"unknown entry 'weights\.7'; .*weights\.0"),
        ({"direction": {"weights.0": np.ones((2, 3))}}, ValueError, r"it must be \(3, 2\)"),
        ({"direction": {"biases.0": [1, np.nan, 0]}}, ValueError, r"biases\.0'\] contains NaN"),
        ({"direction": np.ones(SIZE) * 1j}, TypeError, "direction must be real"),
        ({"direction": None}, TypeError, "direction must be a mapping"),
        ({"direction": "random"}, TypeError, "direction must be a mapping"),
        ({"direction": PiecewiseLinear([np.ones((3, 2))])}, ValueError, "same structure"),
        ({"t": (1.0, 1.0)}, ValueError, r"low < high; got \(1\.0, 1\.0\)"),
        ({"t": (1.0, -1.0)}, ValueError, "low < high"),
        ({"t": (0.0, np.inf)}, ValueError, "infinite"),
        ({"t": 1.0}, ValueError, "interval"),
        (
            {"inputs": np.ones((2, 3))},
            ValueError,
            "inputs have 3 entries each; the network takes 2",
        ),
        ({"inputs": [1.0, 2.0]}, ValueError, "one row a sample"),
        ({"inputs": np.ones((0, 2))}, ValueError, "inputs is empty"),
        ({"inputs": [[1.0, np.inf]]}, ValueError, "infinite"),
        ({"inputs": [[1j, 0.0]]}, TypeError, "inputs must be real"),
        ({"inputs": [[True, False]]}, TypeError, "inputs must be real"),
        ({"targets": None}, ValueError, "needs targets"),
        ({"targets": np.ones((2, 3))}, ValueError, r"wants \(2, 2\)"),
        ({"loss": "cross_entropy", "targets": [0, 2]}, ValueError, r"class 2; classes are 0 … 1"),
        ({"loss": "cross_entropy", "targets": [0, 0.5]}, ValueError, "class 0.5"),
        ({"loss": "cross_entropy", "targets": [0, -1]}, ValueError, "targets must be >= 0"),
        ({"loss": "cross_entropy", "targets": [0]}, ValueError, r"wants classes \(2,\)"),
        ({"loss": "msee"}, ValueError, "Did you mean 'mse'"),
        ({"loss": np.mean}, TypeError, "tuple of three functions"),
        ({"loss": (np.mean,) * 3}, TypeError, "value cannot be called"),
        ({"loss": (np.add,) * 3}, ValueError, "value gives shape"),
        ({"space": "weight"}, ValueError, "Did you mean 'weights'"),
        ({"space": "inputs", "direction": np.ones(3)}, ValueError, "shaped like one input"),
        ({"space": "inputs", "direction": np.zeros(2)}, ValueError, "direction is zero"),
        ({"nodes": 1}, ValueError, "nodes must be >= 2"),
        ({"nodes": 2.5}, TypeError, "nodes must be an integer"),
        ({"model": [np.ones((3, 2))]}, TypeError, "PiecewiseLinear or a torch"),
    ],
)
def test_bad_input_is_refused(change, error, says):
    call = {
        "model": NET, "loss": "mse", "direction": np.ones(SIZE), "t": (-1.0, 1.0),
        "inputs": np.ones((2, 2)), "targets": np.ones((2, 2)),
    } | change  # fmt: skip
    with pytest.raises(error, match=says):
        kinks.along(call.pop("model"), call.pop("loss"), call.pop("direction"), **call)


def test_asking_for_what_was_not_computed():
    direction = np.arange(SIZE) - 8.0
    found = kinks.along(NET, "mse", direction, inputs=[[1.0, -2.0]], targets=[[0.0, 1.0]])
    with pytest.raises(ValueError, match="gradients=True"):
        found.gradient(0)
    full = kinks.along(
        NET, "mse", direction, inputs=[[1.0, -2.0]], targets=[[0.0, 1.0]], gradients=True
    )
    with pytest.raises(IndexError, match=r"there is no event \d+; this line has"):
        full.gradient(len(full.t))
    with pytest.raises(ValueError, match="unknown side"):
        full.gradient(0, "middle")
