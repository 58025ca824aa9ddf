"""Grids, zips and lists of cases, and the key of a case."""

import dataclasses
import enum
import functools
import json
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sigprop import sweep
from sigprop.sweep import keys
from sigprop.sweep.cases import as_cases
from tests.sweep import functions


def test_a_grid_counts_out_every_combination_the_last_axis_fastest():
    cases = sweep.grid(a=[1, 2], b="text", c=np.linspace(0, 1, 3), d=(x for x in "xy"))
    assert len(cases) == 12
    assert cases[0] == {"a": 1, "b": "text", "c": 0.0, "d": "x"}
    assert cases[1] == {"a": 1, "b": "text", "c": 0.0, "d": "y"}
    assert cases[-1] == {"a": 2, "b": "text", "c": 1.0, "d": "y"}
    assert type(cases[2]["c"]) is float
    assert len({json.dumps(case) for case in cases}) == 12
    assert cases[3:5] == [cases[3], cases[4]]
    with pytest.raises(IndexError):
        cases[12]


def test_a_large_grid_takes_no_memory():
    cases = sweep.grid(a=range(10**4), b=range(10**4))
    assert len(cases) == 10**8 and cases[-1] == {"a": 9999, "b": 9999}


def test_a_zip_goes_through_its_axes_together():
    cases = sweep.zip(a=[1, 2, 3], b=np.array([4, 5, 6]), c=None)
    assert list(cases) == [{"a": a, "b": a + 3, "c": None} for a in (1, 2, 3)]
    with pytest.raises(ValueError, match="a has 2, b has 3"):
        sweep.zip(a=[1, 2], b=[1, 2, 3])


@pytest.mark.parametrize(
    ("axes", "error", "words"),
    [
        ({}, ValueError, "at least one argument"),
        ({"a": []}, ValueError, "a has no values"),
        ({"a": range(0), "b": 1}, ValueError, "a has no values"),
        ({"a": {1, 2}}, TypeError, "give a list"),
        ({"a": {"x": 1}}, TypeError, r"\[value\]"),
        ({"a": np.eye(2)}, TypeError, "give a list"),
        ({"a": torch.ones(2)}, TypeError, "give a list"),
    ],
)
def test_axes_that_are_none(axes, error, words):
    for kind in (sweep.grid, sweep.zip):
        with pytest.raises(error, match=words):
            kind(**axes)


def test_numbers_of_numpy_are_one_value():
    assert sweep.grid(a=np.float64(2), b=np.array(3))[0] == {"a": 2.0, "b": 3}


@pytest.mark.parametrize(
    ("cases", "error", "words"),
    [
        ([], ValueError, "no case"),
        ({"a": 1}, TypeError, "list of dicts"),
        (3, TypeError, "list of dicts"),
        ([{"a": 1}, 2], TypeError, "case 1 must be a dict"),
        ([{1: 1}], TypeError, "case 0"),
    ],
)
def test_what_is_no_list_of_cases(cases, error, words):
    with pytest.raises(error, match=words):
        as_cases(cases)


def test_generators_of_cases_are_read_once():
    assert as_cases({"a": a} for a in range(2)) == [{"a": 0}, {"a": 1}]


class Kind(enum.Enum):
    ONE = 1
    TWO = 2


@dataclasses.dataclass(frozen=True)
class Params:
    depth: int
    width: int = 8


VALUES = [
    1, 1.0, True, "1", None, 2, -0.0, 0.0, float("nan"), float("inf"), 1j, b"1", "", (), (1,),
    (1, 2), ((1,), 2), "(1, 2)", {}, {"a": 1}, {"a": 1.0}, np.ones(2), np.array([1.0, 2.0]),
    torch.tensor([1.0, 2.0]), np.ones(2, np.float32),
    np.ones((2, 1)), torch.ones(2), torch.ones(2, dtype=torch.bfloat16), torch.float32,
    torch.device("cpu"), np.dtype("float32"), Path("a"), "a", Kind.ONE, Kind.TWO, Params(1),
    Params(2), functions.same, functions.square, functions.Stateful, np.array([]),
    torch.ones(2, 1),
]  # fmt: skip


def key(value):
    return keys.case_key(b"", {"value": value})


def test_arguments_that_differ_have_keys_that_differ():
    assert len({key(value) for value in VALUES}) == len(VALUES)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.float64(0.1), 0.1),
        (np.int32(3), 3),
        (np.bool_(True), True),
        ([1, 2], (1, 2)),
        (range(3), [0, 1, 2]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (np.arange(4.0)[::2], np.array([0.0, 2.0])),
        (torch.arange(4.0)[::2], torch.tensor([0.0, 2.0])),
        (Params(1), Params(1, 8)),
    ],
)
def test_equal_arguments_have_one_key(one, other):
    assert key(one) == key(other)


def test_the_key_of_a_case_begins_with_that_of_the_function():
    assert keys.case_key(b"one", {"x": 1}) != keys.case_key(b"other", {"x": 1})


def test_names_and_values_do_not_run_into_each_other():
    found = {
        keys.case_key(b"", case)
        for case in ({"a": 1, "b": 2}, {"a": "1,'b':2"}, {"ab": 12}, {"a": [1, 2]}, {"a": [[1], 2]})
    }
    assert len(found) == 5


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({1, 2}, "a set has no order"),
        (np.array([None]), "an array of objects"),
        (np, "give its name"),
        (torch.nn.Linear(1, 1), "inside the function"),
        (functools.partial(functions.same, 1), "give numbers"),
        (object(), "give numbers"),
        ({1: 2}, "keys of a dict"),
        ([object()], "give numbers"),
        (torch.Generator(), "give numbers"),
    ],
)
def test_an_argument_without_a_key_is_named(value, why):
    with pytest.raises(TypeError, match=f"no key can be made of value = .*{why}"):
        key(value)


def variant(tmp_path, monkeypatch, text, name="changing"):
    """A function of a module that is written anew."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"{name}.py").write_text(text)
    for cached in (sys.modules, keys._source):
        cached.pop(name, None) if cached is sys.modules else cached.cache_clear()
    import importlib
    import linecache

    importlib.invalidate_caches()
    linecache.clearcache()
    # A file written within the same second may have the stamp of the compiled one.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return importlib.import_module(name).f


def base(function, **given):
    return keys.base_key(function, **({"threads": 1, "device": None} | given))


def test_a_key_changes_with_the_source_and_what_it_has_captured(tmp_path, monkeypatch):
    def made(text):
        return base(variant(tmp_path, monkeypatch, text))

    first = made("def f(x):\n    return x\n")
    assert made("def f(x):\n    return x\n") == first
    assert made("y = 1\ndef f(x):\n    return x\n") == first  # its own source is what counts
    assert made("def f(x):\n    return 2 * x\n") != first
    assert made("A = 1\ndef f(x=A):\n    return x\n") != made("A = 2\ndef f(x=A):\n    return x\n")
    closed = "def make(y):\n    def f(x):\n        return x + y\n    return f\nf = make({})\n"
    assert made(closed.format(1)) != made(closed.format(2))
    two = "f, g = lambda x: {}, lambda x: 3\n"
    assert made(two.format("x")) != made(two.format("x + 1"))
    with pytest.raises(TypeError, match="no key can be made of a captured value"):
        made(closed.format("object()"))


def test_a_lambda_beside_another_has_a_key_of_its_own(tmp_path, monkeypatch):
    f = variant(tmp_path, monkeypatch, "f, g = lambda x: x, lambda x: x + 1\n")
    assert base(f) != base(sys.modules["changing"].g)


def test_a_key_changes_with_threads_device_and_version(monkeypatch):
    first = base(functions.same)
    assert base(functions.same, threads=2) != first != base(functions.same, device="cuda")
    monkeypatch.setattr(keys, "_version", lambda package: "9.9")
    assert base(functions.same) != first


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (functools.partial(functions.square, 1), "a partial has no source"),
        (functions.Stateful(), "an object with a state"),
        (functions.Stateful().method, "an object with a state"),
    ],
)
def test_what_is_no_function(function, why):
    with pytest.raises(TypeError, match=why):
        keys.source_key(function)


def test_arguments_are_told_in_short_beside_their_result():
    case = {"dtype": torch.bfloat16, "n": np.int64(3), "k": Kind.TWO, "p": Params(1)}
    assert keys.brief(case) == {
        "dtype": "bfloat16", "n": 3, "k": "TWO", "p": {"depth": 1, "width": 8},
    }  # fmt: skip
    words = keys.brief(np.zeros((16, 64), np.float32))
    assert words.startswith("float32 [16 x 64] ") and words != keys.brief(
        np.ones((16, 64), np.float32)
    )
    assert keys.brief(functions.same) == "tests.sweep.functions:same"


def typed(text):
    """A function without a file, as at a prompt."""
    home = {"__name__": "prompt", "math": math}
    exec(text, home)
    return home["f"]


def test_without_a_source_a_key_changes_with_what_is_called_and_with_what_is_inside():
    assert base(typed("def f(x): return math.sin(x)")) == base(
        typed("def f(x): return math.sin(x)")
    )
    texts = (
        "def f(x): return math.sin(x)", "def f(x): return math.cos(x)",
        "def f(x): return (lambda y: y + 1)(x)", "def f(x): return (lambda y: y + 2)(x)",
        "def f(x): return x in {'a', 'b'}", "def f(x): return x in {'a', 'c'}",
    )  # fmt: skip
    assert len({base(typed(text)) for text in texts}) == len(texts)
    inner = keys._spelled_code(typed(texts[2]).__code__)
    assert " at 0x" not in inner  # else no other process makes the same key


def test_a_key_changes_with_a_captured_value_that_changes_later():
    scale = 1

    def f(x):
        return scale * x

    first = base(f)
    scale = 2
    assert base(f) != first


def test_a_file_that_was_changed_after_its_import_is_refused(tmp_path, monkeypatch):
    f = variant(tmp_path, monkeypatch, "def f(x):\n    return x\n")
    file = tmp_path / "changing.py"
    later = time.time() + 5
    file.write_text("# a line more\ndef f(x):\n    return x\n")
    os.utime(file, (later, later))
    base(f)
    keys._source.cache_clear()
    file.write_text("def f(x):\n    return x + 1\n")
    os.utime(file, (later, later))
    with pytest.raises(ValueError, match=r"changing\.py was changed after f was imported"):
        base(f)


def test_what_makes_cases_may_hand_out_one_dict_again_and_again():
    def made():
        case = {}
        for x in range(3):
            case["x"] = x
            yield case

    assert as_cases(made()) == [{"x": 0}, {"x": 1}, {"x": 2}]


@pytest.mark.parametrize("value", [np.longdouble(1), np.datetime64(1, "ns")])
def test_numbers_of_numpy_that_python_has_not_have_no_key(value):
    with pytest.raises(TypeError, match="no key can be made of x"):
        keys.case_key(b"", {"x": value})


def test_a_tensor_that_wants_a_gradient_has_a_key_of_its_own():
    bare, wanting = torch.ones(2), torch.ones(2, requires_grad=True)
    assert keys.case_key(b"", {"x": bare}) != keys.case_key(b"", {"x": wanting})
