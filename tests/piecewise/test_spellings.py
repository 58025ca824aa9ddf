"""Every spelling of an operation in torch is read as what torch computes, or refused."""

import operator
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sigprop.piecewise import to_network
from sigprop.piecewise.table import HANDLERS
from sigprop.piecewise.walk import MOVES
from sigprop.reading.operations import ROWS
from tests.piecewise.zoo import model_of

SHAPE = (2, 4, 6)
ROWS_READ = sorted({row.name for row in (*HANDLERS, *MOVES)})
MEAN, VAR, WEIGHT, BIAS = torch.tensor(
    [[0.3, -0.2], [2.0, 0.5], [0.5, -1.0], [1.0, 0.1]], dtype=torch.float64
)
FIXED = (False, 0.1, 1e-5, False)
ARGUMENTS = (
    (),
    (0.3,),
    (2,),
    (-0.3, 0.5),
    (1, 2),
    ((1, 3),),
    (torch.tensor([0.4], dtype=torch.float64),),
    (torch.linspace(-1, 1, 6, dtype=torch.float64),),
    (MEAN, VAR, WEIGHT, BIAS),
    (WEIGHT, BIAS, MEAN, VAR, *FIXED),
)


def read(function, args) -> int:
    """1 if it is read as what torch computes, 0 if torch or the reader refuses it."""
    name = getattr(function, "__name__", "")
    if getattr(torch.Tensor, name, None) is function:
        function = operator.methodcaller(name, *args)
        args = ()
    x = torch.randn(3, 1, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = [function(2 * row, *args) for row in x]
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, NotImplementedError):
        return 0
    if not all(isinstance(y, torch.Tensor) and y.dtype == torch.float64 for y in wanted):
        return 0
    model = model_of(lambda self, z: function(2 * z, *args))
    try:
        network = to_network(model, input_shape=SHAPE)
    except ValueError as error:
        assert "is not what it computes" not in str(error), (function, args)
        return 0
    found = network(x.reshape(3, -1).numpy())
    np.testing.assert_allclose(found, torch.stack(wanted).reshape(3, -1).numpy(), atol=1e-12)
    return 1


@pytest.mark.parametrize("name", ROWS_READ)
def test_every_spelling_of_a_row_is_read_as_torch_computes_it(name):
    row = ROWS[name]
    many = sum(read(call, args) for call in row.calls for args in ARGUMENTS)
    if name in ("relu", "leaky_relu", "clamp", "sub", "abs", "batch_norm", "max_pool2d"):
        assert many > 1


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (torch.batch_norm, (WEIGHT, BIAS, MEAN, VAR, *FIXED)),
        (torch.instance_norm, (WEIGHT, BIAS, MEAN, VAR, *FIXED)),
        (torch.clamp_max, (0.2,)),
        (torch.Tensor.clamp_max_, (0.2,)),
        (torch.rsub, (0.2,)),
        (torch.Tensor.__rsub__, (0.2,)),
    ],
)
def test_arguments_that_stand_otherwise_than_in_the_first_spelling(function, args):
    assert read(function, args)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda z: F.max_pool2d(z, 2, return_indices=True)[0], "places of maxima"),
        (lambda z: torch.native_dropout(z, 0.5, False)[0], "returns several tensors"),
        (lambda z: z.sort(1)[0], "is not piecewise linear"),
        (lambda z: z.cummax(1)[0], "is not piecewise linear"),
        (lambda z: z * torch.rand_like(z), "draws random numbers"),
        (lambda z: z * torch.ones_like(z).bernoulli(), "draws random numbers"),
    ],
)
def test_what_looks_like_a_row_and_is_not(function, says):
    with pytest.raises(ValueError, match=says):
        to_network(model_of(lambda self, z: function(z)), input_shape=SHAPE)
