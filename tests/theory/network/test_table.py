"""The table of rules against the table of operations: nothing is left out or named in vain."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from weakref import ref

import numpy as np
import pytest

from sigprop.graph.vocabulary import KINDS
from sigprop.reading.operations import OPAQUE, ROWS
from sigprop.theory import network
from sigprop.theory.network import FAMILIES, RULES, Call, Rule, from_moments
from sigprop.theory.network.state import SignalState
from sigprop.theory.network.table import (
    MEASURED,
    RuleContext,
    kept_by_shape,
    kept_for_the_parameters,
    kept_for_the_way_back,
)

SILENT = ("comparison", "constant", "input", "output")
"""Kinds that carry no signal."""
SIGNALS = {name: row.kind for name, row in ROWS.items() if row.kind not in SILENT}
HOME = Path(network.__file__).parent
FILES = {path.name: path.read_text() for path in HOME.glob("*.py")}


def ruled(name: str, kind: str, rules: Collection[str]) -> bool:
    return bool({name, kind, f"{kind}.{name}"} & set(rules))


def left_out(signals: Mapping[str, str], rules: Collection[str], measured: Collection[str]) -> list:
    """Operations that carry a signal, have no rule and are not measured on purpose."""
    return [n for n, kind in signals.items() if not ruled(n, kind, rules) and n not in measured]


def in_vain(signals: Mapping[str, str], rules: Collection[str], measured: Collection[str]) -> list:
    """Names of rules that no operation and no kind has; measured ones with their own or no row.

    A function in no row goes by its own name, a tensor written in parts as "write".
    """
    pairs = {f"{kind}.{name}" for kind in KINDS for name in ROWS}
    known = {"write", *ROWS, *KINDS, *OPAQUE, *pairs}
    vain = [name for name in rules if name not in known]
    own = ({n, f"{signals.get(n)}.{n}"} for n in measured)
    twice = [n for n, names in zip(measured, own, strict=True)
             if n not in signals or names & set(rules)]  # fmt: skip
    return vain + twice


def unexplained(rules: Mapping[str, Rule]) -> list[str]:
    return [name for name, rule in rules.items() if not rule.assumption.strip()]


def homeless(files: Mapping[str, str], families: Collection[ModuleType]) -> list[str]:
    """Files that register rules and are in no family."""
    homes = {f"{module.__name__.rpartition('.')[2]}.py" for module in families}
    called = re.compile(r"^ *\w*rule\(", re.M)
    holding = [n for n, text in files.items() if called.search(text.partition("def rule(")[0])]
    return [name for name in holding if name not in homes]


def misnamed(files: Collection[str], text: str) -> list[str]:
    """Files that a list does not name once, and names of no file."""
    names = re.findall(r"(\w+\.py): ", text)
    wanted = [name for name in files if name != "__init__.py"]
    return [n for n in wanted if names.count(n) != 1] + [n for n in names if n not in wanted]


def test_each_operation_has_a_rule_or_is_measured_on_purpose():
    assert left_out(SIGNALS, RULES, MEASURED) == []


def test_no_rule_and_no_exception_is_named_in_vain():
    assert in_vain(SIGNALS, RULES, MEASURED) == []


def test_each_rule_says_what_it_assumes():
    assert unexplained(RULES) == []


def test_each_file_with_rules_is_a_family():
    assert homeless(FILES, FAMILIES) == []
    assert len(homeless(FILES, ())) == len(FAMILIES)
    assert len(set(FAMILIES)) == len(FAMILIES)


def test_the_list_of_files_names_each_once():
    assert misnamed(FILES, network.__doc__ or "") == []


def test_no_file_outgrows_its_reader():
    assert [name for name, text in FILES.items() if text.count("\n") > 450] == []


@pytest.mark.parametrize("name", ["linear", "reshape", "cat", "matmul", "softmax", "batch_norm"])
def test_an_operation_left_out_is_found(name):
    kind = SIGNALS[name]
    fewer = [rule for rule in RULES if rule not in (name, kind)]
    assert name in left_out(SIGNALS, fewer, MEASURED)
    assert name not in left_out(SIGNALS, fewer, {*MEASURED, name})


def test_planted_names_are_found():
    assert in_vain(SIGNALS, {*RULES, "conv4d"}, MEASURED) == ["conv4d"]
    assert in_vain(SIGNALS, RULES, {*MEASURED, "linear"}) == ["linear"]
    assert in_vain(SIGNALS, RULES, {*MEASURED, "conv4d"}) == ["conv4d"]
    silent = Rule(("x",), lambda ctx: None, lambda ctx, g: (), " ")
    assert unexplained({**RULES, "x": silent}) == ["x"]
    assert homeless({**FILES, "new.py": "rule(\n"}, FAMILIES) == ["new.py"]
    assert homeless(FILES, FAMILIES[1:]) == ["linear.py"]
    text = network.__doc__ or ""
    assert misnamed([*FILES, "new.py"], text) == ["new.py"]
    assert misnamed(FILES, f"{text}\n    gone.py: nothing.\n") == ["gone.py"]


@pytest.mark.parametrize(("numbers", "again"), [(8, 0), (2**15, 2)])
def test_parts_are_kept_for_the_way_back(numbers: int, again: int):
    """All small ones, the last four large ones; calls that are gone are no trouble."""
    made: list[str] = []

    @kept_for_the_way_back
    def make(ctx: RuleContext) -> np.ndarray:
        made.append(ctx.call.name)
        return np.zeros(numbers)

    state = from_moments((2,), 1.0)
    for _ in range(2):  # as in two predictions
        calls = [Call(str(i), "x", "x", None) for i in range(6)]
        for call in [*calls, *reversed(calls)]:
            make(RuleContext(call, [state]))
        assert len(made) == 6 + again
        make(RuleContext(calls[0], [from_moments((2,), 2.0)]))  # other states
        assert len(made) == 6 + again + 1
        made.clear()
        del calls, call


def test_what_shapes_alone_decide_is_made_once_for_them():
    made: list[int] = []

    @kept_by_shape
    def make(ctx: RuleContext) -> int:
        made.append(len(made))
        return made[-1]

    call, other = (Call(name, "x", "x", None) for name in "ab")
    shapes = [(2,), (2,), (3,), (2,)]
    found = [make(RuleContext(call, [from_moments(shape, 1.0)])) for shape in shapes]
    assert found == [0, 0, 1, 2] and make(RuleContext(other, [from_moments((2,), 1.0)])) == 3


def test_what_the_parameters_ask_for_again_is_kept_for_one_call_and_gradient():
    made: list[float] = []

    @kept_for_the_parameters
    def make(ctx: RuleContext, gradient: object, more: float) -> float:
        made.append(more)
        return more

    first, second = (RuleContext(Call(name, "x", "x", None), []) for name in "ab")
    one, two = (from_moments((2,), q) for q in (1.0, 1.0))
    asked = [(first, one), (first, one), (first, two), (second, two), (second, two), (first, one)]
    found = [make(ctx, gradient, float(i)) for i, (ctx, gradient) in enumerate(asked)]
    assert found == [0, 0, 2, 3, 3, 5]


def test_what_was_kept_for_a_call_goes_with_it():
    @kept_for_the_parameters
    def make(ctx: RuleContext, gradient: object) -> SignalState:
        return from_moments((3,), 1.0)

    call, gradient = Call("a", "x", "x", None), from_moments((2,), 1.0)
    made = ref(make(RuleContext(call, []), gradient))
    assert made() is not None
    del call
    assert made() is None
