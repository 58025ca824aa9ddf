"""What a sweep computes, keeps and computes again; in this process, where nothing needs another."""

import concurrent.futures
import json
import math
import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from sigprop import sweep, validate
from sigprop.records import read_json
from sigprop.sweep.entry import results
from tests.sweep import functions
from tests.sweep.running import here, values


def test_results_stand_beside_their_arguments_in_the_order_of_the_cases():
    cases = [{"x": 3}, {"x": 1, "scale": 2}, {"x": 3}]
    result = here(functions.square, cases)
    assert result.records() == [
        {"x": 3, "square": 9, "half": 1.5},
        {"x": 1, "scale": 2, "square": 2, "half": 0.5},
        {"x": 3, "square": 9, "half": 1.5},
    ]
    assert len(result) == 3 and len(result.seconds()) == 3


@pytest.mark.parametrize(
    ("returned", "row"),
    [
        (2, {"value": 2}),
        (np.float32(0.5), {"value": 0.5}),
        (torch.tensor(3), {"value": 3}),
        ([1.0, 2.0], {"value": [1.0, 2.0]}),
        (np.arange(2), {"value": [0, 1]}),
        ({"a": torch.ones(1), "b": "text", "c": True}, {"a": [1.0], "b": "text", "c": True}),
        (None, {"value": math.nan}),
        (-math.inf, {"value": -math.inf}),
    ],
)
def test_what_a_function_may_return(returned, row):
    (found,) = here(lambda: returned, [{}]).records()
    assert repr(found) == repr(row)


def test_several_rows_of_a_case():
    result = here(functions.several, sweep.grid(n=[2, 1]))
    assert result.records() == [
        {"n": 2, "step": 0, "value": 0},
        {"n": 2, "step": 1, "value": 2},
        {"n": 1, "step": 0, "value": 0},
    ]


def test_results_of_the_toolkit_are_their_summary_or_their_records():
    cases = sweep.grid(alpha=[0.0, 0.2], depth=3, width=16, seeds=1, gain=[None, 1.0], device="cpu")
    found = here(validate, cases).records()
    direct = [validate(**case).summary() for case in cases]
    for row, summary in zip(found, direct, strict=True):
        assert row["log10_q_measured"] == summary["log10_q_measured"]
        assert row.get("result_gain", row["gain"]) == summary["gain"]
    assert found[0]["gain"] is None and found[1]["gain"] == 1.0


def test_what_is_no_number_is_a_failure_of_its_case():
    (error,) = here(functions.an_object, [{"x": 1}]).errors()
    assert error["error"].startswith("BadResult: the result is object")
    assert "returns a number, a dict of numbers" in error["error"]


def test_a_case_that_raises_is_recorded_and_the_rest_goes_on(tmp_path):
    result = here(functions.fails_on_odd, sweep.grid(x=range(5)), out=tmp_path / "s")
    assert values(result) == [0, 2, 4]
    assert [error["x"] for error in result.errors()] == [1, 3]
    first = result.errors()[0]
    assert first["error"] == "ValueError: 1 is odd"
    assert first["traceback"].startswith("Traceback") and "fails_on_odd" in first["traceback"]
    assert "worker.py" not in first["traceback"]
    text = str(result)
    assert "5 of 5 cases finished, 2 of them raised" in text and "1 x ValueError: 1 is odd" in text
    (leaving,) = here(functions.leaves, sweep.grid(x=range(3))).errors()
    assert leaving["error"] == "SystemExit: leaving"


def test_an_error_ends_all_where_that_is_asked_for(tmp_path):
    with pytest.raises(sweep.CaseError, match=r"(?s)case 1 of .*:fails_on_odd, .*1 is odd.*Traceb"):
        cases = sweep.grid(x=range(4))
        here(functions.fails_on_odd, cases, out=tmp_path / "s", on_error="raise", batch=1)
    assert values(sweep.load(tmp_path / "s")) == [0]
    with pytest.raises(sweep.CaseError, match="1 is odd"):  # again: it is not passed over
        here(functions.fails_on_odd, cases[:2], out=tmp_path / "s", on_error="raise")
    with pytest.raises(ValueError, match="on_error"):
        here(functions.same, [{"value": 1}], on_error="ignore")


def test_what_ends_beside_a_failure_is_kept(tmp_path, monkeypatch):
    """Three cases end at the same moment, and the second one ends all."""

    def all_ended(futures, timeout, return_when):
        return concurrent.futures.wait(futures)

    monkeypatch.setattr("sigprop.sweep.coordinator.wait", all_ended)
    cases = [{"x": x} for x in (2, 1, 4)]
    for number in range(4):
        out = tmp_path / str(number)
        with ThreadPoolExecutor(3) as pool, pytest.raises(sweep.CaseError, match="1 is odd"):
            sweep.run(functions.fails_on_odd, cases, out=out, executor=pool, batch=1,
                      on_error="raise", progress=False)  # fmt: skip
        assert values(sweep.load(out)) == [2, 4]


def test_ctrl_c_leaves_a_folder_that_goes_on(tmp_path):
    out = tmp_path / "s"
    pressed = [3]

    def stops(x):
        if x in pressed:
            raise KeyboardInterrupt
        return x

    pressed_key = sweep.grid(x=range(5))
    with pytest.raises(
        KeyboardInterrupt, match=r"3 of 5 cases are finished and kept in .*run the same again"
    ):
        here(stops, pressed_key, out=out, batch=1)
    assert values(sweep.load(out)) == [0, 1, 2]
    with pytest.raises(KeyboardInterrupt, match="are lost; give out=FOLDER"):
        here(stops, pressed_key)


def test_global_random_numbers_are_a_function_of_the_case():
    cases = sweep.grid(x=range(3))
    before, state = random.getstate(), torch.get_rng_state()
    first = here(functions.lucky_torch, cases).records()
    random.seed(99)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    mine = random.getstate(), torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    backwards = here(functions.lucky_torch, list(cases)[::-1]).records()[::-1]
    here(functions.lucky, cases)
    assert random.getstate() == mine[0]  # the user's own go on
    assert torch.equal(torch.get_rng_state(), mine[1])
    np.testing.assert_array_equal(np.random.get_state()[1], mine[2])  # noqa: NPY002
    assert first == backwards and len({row["torch"] for row in first}) == 3
    random.setstate(before)
    torch.set_rng_state(state)


def test_every_case_has_its_number_of_torch_threads():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for threads in (1, 2):
            (row,) = here(functions.lucky_torch, [{"x": 1}], threads=threads).records()
            assert row["threads"] == threads
            with ThreadPoolExecutor(1) as pool:
                found = sweep.run(
                    functions.lucky_torch, sweep.grid(x=range(4)), executor=pool,
                    threads=threads, progress=False,
                ).records()  # fmt: skip
                assert pool.submit(torch.get_num_threads).result() == 3  # as it was
            assert {row["threads"] for row in found} == {threads}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("function", "case", "words"),
    [
        (functions.square, {"y": 1}, "square has no argument 'y'"),
        (functions.square, {"x": 1, "scal": 2}, "did you mean 'scale'"),
        (functions.square, {}, "missing a required argument: 'x'"),
        (functions.no_argument, {"x": 1}, "no argument 'x'"),
        (functions.same, {"value": {1}}, "a set has no order"),
    ],
)
def test_arguments_that_do_not_fit_are_told_before_anything_runs(function, case, words):
    for cases in ([case], [{"x": 1} if function is functions.square else case, case]):
        with pytest.raises(TypeError, match=words):
            here(function, cases)


def test_devices_are_dealt_out_one_case_at_a_time(tmp_path):
    names = ["cpu:0", "cpu:1"]
    with ThreadPoolExecutor(4) as pool:
        found = sweep.run(
            functions.on, sweep.grid(x=range(12), place=str(tmp_path)), executor=pool,
            devices=names, progress=False, batch=1,
        ).records()  # fmt: skip
    assert all(row["alone"] for row in found)
    assert {row["device"] for row in found} == set(names)


def test_devices_that_do_not_fit(tmp_path):
    cases = sweep.grid(x=[1], place=str(tmp_path))
    with pytest.raises(ValueError, match=r"several kinds \(cpu, cuda\)"):
        here(functions.on, cases, devices=["cpu", "cuda:0"])
    with pytest.raises(TypeError, match=r'as \["cuda:0"'):
        here(functions.on, cases, devices="cpu")
    with pytest.raises(TypeError, match="no argument 'device'"):
        here(functions.same, [{"value": 1}], devices=["cpu"])
    with pytest.raises(TypeError, match="an argument 'device' of their own"):
        here(functions.on, [{"x": 1, "place": "", "device": "cpu:1"}], devices=["cpu"])
    two = here(
        functions.on, sweep.grid(x=range(4), place=str(tmp_path)), devices=["cpu:0", "cpu:1"]
    )
    assert {row["device"] for row in two.records()} == {"cpu:0", "cpu:1"}
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ValueError, match="2 devices take workers=2; got 3"):
            sweep.run(functions.on, cases, devices=["cpu:0", "cpu:1"], workers=3, executor=pool)
        with pytest.raises(ValueError, match="workers=0 runs the cases in this process"):
            here(functions.same, [{"value": 1}], executor=pool)
    with pytest.raises(ValueError, match="2 devices take workers=2; got 3"):
        sweep.run(functions.on, cases, devices=["cpu:0", "cpu:1"], workers=3, progress=False)


def test_progress_counts_cases_and_failures(capsys, monkeypatch):
    seen = []
    sweep.run(functions.same, sweep.grid(value=range(3)), workers=0, batch=1,
              progress=lambda *now: seen.append(now))  # fmt: skip
    assert seen == [(1, 3), (2, 3), (3, 3)]
    monkeypatch.setattr("sigprop.sweep.entry.EVERY", 0.01)

    def slow(x):
        time.sleep(0.03)
        return functions.fails_on_odd(x)

    sweep.run(slow, sweep.grid(x=range(1, 5)), workers=0, batch=1)
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.match(
        r"sigprop sweep test_run:.*slow: \d of 4 cases, \d failed, \d s, \d s left", line
    ) or (
        re.match(r"sigprop sweep tests.sweep.test_run:.*: \d of 4 cases, \d failed, 0 s", line)
    ), line


def test_what_was_there_before_counts_for_no_speed(tmp_path):
    seen = []
    out, cases = tmp_path / "s", sweep.grid(value=range(4))
    here(functions.same, cases[:3], out=out)
    sweep.run(functions.same, cases, out=out, workers=0, progress=lambda *now: seen.append(now))
    assert seen == [(4, 4)]


def test_the_folder_says_what_it_holds(tmp_path):
    out = tmp_path / "s"
    here(functions.square, sweep.grid(x=[1, 2], scale=3), out=out)
    about = read_json(out / "sweep.json")
    assert about["function"] == "tests.sweep.functions:square"
    assert about["axes"] == {"x": [1, 2], "scale": [3]} and about["cases"] == 2
    lines = [json.loads(line) for line in (out / "cases.jsonl").read_text().splitlines()]
    assert [(line["case"], line["result"]) for line in lines] == [
        ({"x": 1, "scale": 3}, {"square": 3, "half": 0.5}),
        ({"x": 2, "scale": 3}, {"square": 12, "half": 1.0}),
    ]


def test_results_as_they_are_and_the_error_itself():
    made = object()
    assert results(lambda x: made, [{"x": 1}], workers=0) == [made]
    with pytest.raises(ZeroDivisionError):
        results(lambda x: 1 / x, [{"x": 1}, {"x": 0}], workers=0)
    got = {}
    with ThreadPoolExecutor(2) as pool, pytest.raises(ValueError, match="3 is odd"):
        results(functions.fails_on_odd, [{"x": 3}, {"x": 1}], executor=pool)
    with ThreadPoolExecutor(2) as pool, pytest.raises(ValueError, match="1 is odd"):
        results(
            functions.fails_on_odd, [{"x": x} for x in (2, 1, 4, 6, 8)], executor=pool,
            finished=got.__setitem__,
        )  # fmt: skip
    assert got[0] == 2
    begun = []

    def fails(x):
        begun.append(x)
        return functions.fails_on_odd(x)

    with pytest.raises(ValueError, match="1 is odd"):
        results(fails, [{"x": x} for x in (2, 1, 4, 6)], workers=0)
    assert begun == [2, 1]
    assert results(functions.same, []) == []
    assert threading.active_count() < 20
