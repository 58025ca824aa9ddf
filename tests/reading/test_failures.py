"""A model that does not run on what it is given: whose error it is, and what to do."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sigprop

X = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


def net():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


@pytest.mark.parametrize(
    ("make", "x", "error", "message"),
    [
        (net, X.numpy(), TypeError, r"x of type ndarray. .* Give torch.as_tensor\(x\)"),
        (net, None, TypeError, r"x of type NoneType. .* Give a tensor in the shape"),
        (net, X.tolist(), TypeError, r"x of type list. .* Give torch.tensor\(x\)"),
        (net, DataLoader(TensorDataset(X)), TypeError, r"DataLoader. .* one batch of it, .*iter"),
        (net, TensorDataset(X), TypeError, r"TensorDataset. .* Give its tensors"),
        (net, "x", TypeError, r"x of type str. .* Give a tensor, or a tuple or dict"),
        (net, X.double(), ValueError, r"\(5, 8\) float64 cpu. .*Cast the input or the model"),
        (net, X.long(), ValueError, r"\(5, 8\) int64 cpu. .*Cast the input or the model"),
        (lambda: net().bfloat16(), X, ValueError, r"float32 cpu. .*BFloat16.* Cast the input"),
        (lambda: net().to("meta"), X, ValueError, r"meta is not .* What is on the meta dev"),
        (net, X.to("meta"), ValueError, r"float32 meta. .*give an input that has some"),
        (net, X[:, :7], ValueError, r"\(5, 7\) float32 cpu. .*multiplied.* Give x in the shape"),
        (net, (X, X), ValueError, r"forward takes: a tuple by position"),
    ],
    ids=lambda value: None,
)
def test_measure_says_what_to_do(make, x, error, message):
    with pytest.raises(error, match=message):
        sigprop.measure(make(), x)


@pytest.mark.parametrize("run", [sigprop.predict, sigprop.check, sigprop.initialize])
def test_the_others_say_the_same(run):
    with pytest.raises(ValueError, match=r"input \(5, 8\) float64 cpu. .*Cast the input or the"):
        run(net(), X.double())


def test_a_model_of_anything_is_measured_and_out_of_memory_is_not_reworded():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 2)

        def forward(self, array):
            if array is None:
                raise torch.OutOfMemoryError("no memory left")
            return self.layer(torch.as_tensor(array))

    assert sigprop.measure(Reads(), X.numpy())[0].second_moment > 0
    with pytest.raises(torch.OutOfMemoryError, match="no memory left"):
        sigprop.measure(Reads(), None)


@pytest.mark.parametrize("run", [sigprop.predict, sigprop.check, sigprop.initialize])
def test_what_is_no_example_is_said_with_what_to_give_instead(run):
    with pytest.raises(TypeError, match=r"got ndarray. Give torch.as_tensor\(x\) with the model"):
        run(net(), x=X.numpy()) if run is not sigprop.initialize else run(net(), example=X.numpy())


@pytest.mark.parametrize("x", [(8, 16), torch.zeros(8, 16)])
def test_tables_are_looked_up_by_whole_numbers(x):
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 2))
    with pytest.raises(ValueError, match=r"x.long\(\); instead of a shape .*torch.int64\)"):
        sigprop.predict(model, x)
    assert sigprop.predict(model, ((8, 16), torch.int64)).records()
