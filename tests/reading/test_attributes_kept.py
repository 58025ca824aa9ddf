"""What running a model leaves on its modules is taken off again."""

import pytest
import torch
from torch import nn

from sigprop.reading.calling import attributes_kept


def layer() -> nn.Module:
    module = nn.Linear(2, 2)
    module.register_buffer("table", torch.ones(2))
    module.one, module.two = "a", ["b"]
    return module


def renamed(module):
    value = module.__dict__.pop("two")
    module.three = value


def replaced(module):
    module.two = ["b"]


def swapped(module):
    one, two = module.one, module.two
    del module.one, module.two
    module.two, module.one = two, one


def moved_to_the_parameters(module):
    module._parameters = {"table": module._buffers.pop("table")} | module._parameters


def moved_between_tables(module):
    last = module._buffers.popitem()
    held = dict(module._parameters)
    module._parameters.clear()
    module._parameters.update({last[0]: last[1]} | held)


def added(module):
    module.four = 4


@pytest.mark.parametrize(
    "change", [renamed, replaced, swapped, moved_to_the_parameters, moved_between_tables, added]
)
def test_modules_are_given_back(change):
    modules = [layer(), layer()]
    tables = [t for m in modules for t in (m.__dict__, m._buffers, m._parameters)]
    before = [list(table.items()) for table in tables]
    with attributes_kept(modules):
        change(modules[0])
    now = [t for m in modules for t in (m.__dict__, m._buffers, m._parameters)]
    for table, own, held in zip(now, tables, before, strict=True):
        assert table is own and [*table] == [name for name, _ in held]
        assert all(value is table[name] for name, value in held)
