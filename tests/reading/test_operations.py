"""The table of operations: complete, the same row for every spelling, no row by accident."""

from __future__ import annotations

import operator
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import get_overridable_functions, resolve_name

from sigprop.activations import ACTIVATIONS
from sigprop.graph import KINDS
from sigprop.reading.operations import MODULES, OPAQUE, OPERATIONS, ROWS, find, of_module

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's own: names that it gives up
    OVERRIDABLE = [f for functions in get_overridable_functions().values() for f in functions]


def plain(func) -> str:
    """Its name, without what says in place or special."""
    return str(getattr(func, "__name__", func)).strip("_").removeprefix("special_")


complete = pytest.mark.skipif(
    tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 13),
    reason="the table is complete for current torch; what it lacks of an older one is opaque",
)


@complete
def test_every_overridable_function_is_known_or_unknown_on_purpose():
    missing = {
        resolve_name(func) or plain(func)
        for func in OVERRIDABLE
        if find(func) is None
        and not {plain(func), plain(func).partition("_")[2], plain(func)} & OPAQUE
    }
    assert not missing


@complete
def test_what_is_unknown_on_purpose_is_in_no_row():
    assert not OPAQUE & ROWS.keys()
    met = {plain(func) for func in OVERRIDABLE if find(func) is None}
    met |= {name.partition("_")[2] for name in met}  # linalg_det
    assert met >= OPAQUE


ELSEWHERE = {"stochastic_depth": "torchvision", "has_names": "older torch", "names": "older torch",
             "is_sparse_bsr": "older torch"}  # fmt: skip


@complete
def test_every_row_is_sound():
    for name, row in ROWS.items():
        assert row.name == name and row.kind in KINDS
        assert row.calls or row in MODULES.values() or name in ELSEWHERE, name
    assert all(ROWS[row.name] is row for row in OPERATIONS.values())


T = torch.Tensor
aten = torch.ops.aten
SPELLINGS = {
    "relu": [torch.relu, torch.relu_, F.relu, F.relu_, T.relu, T.relu_, nn.ReLU(), aten.relu,
             aten.relu.default, aten.relu_.default],
    "leaky_relu": [F.leaky_relu, F.leaky_relu_, torch._C._nn.leaky_relu, nn.LeakyReLU(),
                   aten.leaky_relu],
    "prelu": [F.prelu, torch.prelu, T.prelu, nn.PReLU()],
    "gelu": [F.gelu, torch._C._nn.gelu, nn.GELU(), aten.gelu.default],
    "silu": [F.silu, torch._C._nn.silu, nn.SiLU(), aten.silu_.default],
    "hardtanh": [F.hardtanh, F.hardtanh_, torch._C._nn.hardtanh, nn.Hardtanh()],
    "logsigmoid": [F.logsigmoid, torch._C._nn.log_sigmoid, nn.LogSigmoid()],
    "threshold": [F.threshold, F.threshold_, F._threshold, torch.threshold, nn.Threshold(0, 0)],
    "sigmoid": [torch.sigmoid, torch.sigmoid_, T.sigmoid, T.sigmoid_, F.sigmoid,
                torch.special.expit, torch._C._special.special_expit, nn.Sigmoid(), aten.sigmoid],
    "tanh": [torch.tanh, torch.tanh_, F.tanh, T.tanh, T.tanh_, nn.Tanh(), aten.tanh.default],
    "erf": [torch.erf, T.erf, T.erf_, torch.special.erf, torch._C._special.special_erf],
    "log1p": [torch.log1p, T.log1p_, torch.special.log1p, aten.log1p],
    "abs": [torch.abs, torch.absolute, T.abs, T.abs_, T.absolute, T.__abs__, operator.abs],
    "clamp": [torch.clamp, torch.clip, torch.clamp_min, torch.clamp_max_, T.clamp, T.clip_,
              T.clamp_min, aten.clamp.default, aten.clamp.Tensor],
    "pow": [torch.pow, T.pow, T.pow_, T.__pow__, T.__ipow__, T.__rpow__, operator.pow,
            operator.ipow, torch.float_power],
    "add": [torch.add, T.add, T.add_, T.__add__, T.__radd__, T.__iadd__, operator.add,
            operator.iadd, aten.add.Tensor, aten.add.Scalar, aten.add_.Tensor],
    "sub": [torch.sub, torch.subtract, torch.rsub, T.sub_, T.__sub__, T.__rsub__, T.__isub__,
            operator.sub, operator.isub],
    "mul": [torch.mul, torch.multiply, T.mul, T.mul_, T.multiply_, T.__mul__, T.__rmul__,
            T.__imul__, operator.mul, operator.imul, aten.mul.Tensor],
    "div": [torch.div, torch.divide, torch.true_divide, T.div_, T.true_divide, T.__truediv__,
            T.__rtruediv__, T.__itruediv__, operator.truediv, operator.itruediv, aten.div.Tensor],
    "neg": [torch.neg, torch.negative, T.neg_, T.negative, T.__neg__, operator.neg],
    "matmul": [torch.matmul, torch.mm, torch.bmm, torch.mv, torch.dot, torch.inner, T.matmul, T.mm,
               T.__matmul__, T.__rmatmul__, operator.matmul, torch.linalg.matmul,
               torch.chain_matmul, aten.mm.default],
    "linear": [F.linear, torch._C._nn.linear, nn.Linear(2, 2), aten.linear.default],
    "conv2d": [F.conv2d, torch.conv2d, nn.Conv2d(2, 2, 1), aten.conv2d.default],
    "cat": [torch.cat, torch.concat, torch.concatenate, aten.cat.default],
    "maximum": [torch.maximum, torch.fmax, T.maximum, T.fmax],
    "where": [torch.where, T.where, aten.where.self],
    "softmax": [torch.softmax, F.softmax, T.softmax, torch.special.softmax, nn.Softmax(1),
                nn.Softmax2d()],
    "batch_norm": [F.batch_norm, torch.batch_norm, nn.BatchNorm1d(2), nn.BatchNorm2d(2)],
    "dropout": [F.dropout, torch.dropout, torch.dropout_, nn.Dropout()],
    "getitem": [T.__getitem__, operator.getitem],
    "setitem": [T.__setitem__, operator.setitem],
    "T": [T.T.__get__],
    "gt": [torch.gt, T.gt, T.gt_, T.__gt__, operator.gt],
    "lstm": [torch.lstm, torch._VF.lstm, nn.LSTM(2, 2)],
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_one_row(name: str):
    for func in SPELLINGS[name]:
        found = of_module(func) if isinstance(func, nn.Module) else find(func)
        assert found is ROWS[name], func


WORDS = {
    "passage": "view reshape permute expand chunk clone detach to type_as unfold pad flip data",
    "weight": "linear conv1d conv_transpose3d matmul addmm einsum",
    "activation": "sin floor remainder floor_divide exp rsqrt nan_to_num ndtr frac",
    "scale": "neg",
    "sum": "add sub",
    "product": "mul div glu outer cross tensordot addr kron",
    "concatenation": "cat stack hstack block_diag cartesian_prod",
    "selection": "where maximum masked_fill index_put scatter copy setitem tril copysign",
    "pooling": "mean sum amax topk cumsum fold interpolate grid_sample scatter_add sum_to_size",
    "normalization": "batch_norm layer_norm group_norm rms_norm normalize instance_norm",
    "softmax": "softmax log_softmax softmin",
    "attention": "scaled_dot_product_attention",
    "recurrent": "lstm gru rnn_tanh lstm_cell",
    "embedding": "embedding embedding_bag",
    "dropout": "dropout dropout2d",
    "comparison": "gt eq logical_and isnan signbit",
    "constant": "size shape zeros_like randn_like argmax isin item one_hot nonzero_static",
    "opaque": "bilinear cdist cosine_similarity cov sample",
}


@pytest.mark.parametrize("kind", WORDS)
def test_kinds(kind: str):
    for name in WORDS[kind].split():
        assert ROWS[name].kind == kind, name


def test_words_within_words():
    """A name that holds another, or means two things, is in its own row."""
    for func, name in (
        (torch.isin, "isin"), (torch.special.sinc, "sinc"), (torch.log_softmax, "log_softmax"),
        (T.index_add, "index_add"), (T.unfold, "unfold"), (F.relu6, "relu6"), (F.rrelu, "rrelu"),
        (T.T.__get__, "T"), (T.t, "t"), (torch.nonzero, "nonzero"), (T.__float__, "float"),
        (torch.softmax, "softmax"), (torch.std_mean, "std_mean"), (torch.sign, "sign"),
        (torch.signbit, "signbit"), (torch.Tensor.bernoulli_, "bernoulli"),
        (torch.bernoulli, "sample"), (torch.normal, "sample"), (T.normal_, "normal"),
        (F.normalize, "normalize"), (T.data.__get__, "data"), (T.data_ptr, "data_ptr"),
    ):  # fmt: skip
        assert find(func) is ROWS[name], func
    for func in (
        torch.linalg.cond, torch.fft.fft, torch.atan2, torch.angle, torch.addbmm,
        torch.native_group_norm, torch.quantized_batch_norm, len, print,
    ):  # fmt: skip
        assert find(func) is None, func


def test_no_activation_is_a_row_that_lets_pass():
    """Whatever the table of activations names is no passage, scale or constant here."""
    found = {name: ROWS[name].kind for name in ACTIVATIONS if name in ROWS}
    assert set(found.values()) == {"activation"} and len(found) > 15


def test_a_subclass_with_a_forward_of_its_own_is_no_row():
    class Own(nn.ReLU):
        def forward(self, x):
            return x

    class Kept(nn.Conv2d):
        pass

    assert of_module(Own()) is None and of_module(Kept(2, 2, 1)) is ROWS["conv2d"]
