"""The folder of a sweep, when something happens to it."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from sigprop import sweep
from sigprop.sweep import store
from tests.sweep import functions


def here(function, cases, **rest):
    return sweep.run(function, cases, workers=0, progress=False, **rest)


def test_a_result_is_not_hidden_by_an_older_failure_of_another_number_of_shards(tmp_path):
    mark, out = tmp_path / "mark", tmp_path / "s"
    cases = sweep.grid(x=range(6), place=str(mark))
    for part in range(1, 7):
        here(functions.needs, cases, out=out, shard=(part, 6))
    assert len(sweep.load(out).errors()) == 6
    mark.touch()
    for part in (1, 2):  # its file stands before some of those that hold the failures
        here(functions.needs, cases, out=out, shard=(part, 2), retry=True)
    assert len(sweep.load(out).records()) == 6
    assert sweep.status(out).failed == 0


def test_fresh_is_refused_while_a_part_is_adding(tmp_path):
    cases = sweep.grid(value=range(4))
    here(functions.same, cases, out=tmp_path, shard="1/2")
    part = store._opened(tmp_path / "cases-1-of-2.jsonl")
    with part, pytest.raises(BlockingIOError, match="1-of-2"):
        here(functions.same, cases, out=tmp_path, fresh=True)
    assert len(sweep.load(tmp_path)) == 2


def test_a_folder_that_is_deleted_in_between_ends_the_sweep(tmp_path):
    out = tmp_path / "s"

    def told(done, total):
        if done == 2:
            shutil.rmtree(out)

    with pytest.raises(OSError, match="was deleted while the sweep was running") as caught:
        sweep.run(
            functions.same, sweep.grid(value=range(9)), out=out, workers=0, batch=1, progress=told
        )
    assert not caught.value.__cause__.__cause__


def test_an_error_of_an_executor_that_takes_more_than_words_is_told(tmp_path):
    class Odd(RuntimeError):
        def __init__(self, code, words):
            super().__init__(words)

    class Executor(ThreadPoolExecutor):
        def submit(self, *arguments, **rest):
            raise Odd(7, "odd")

    with Executor(1) as executor, pytest.raises(RuntimeError, match=r"odd\. 0 of 1 case"):
        quiet = {"progress": False, "out": tmp_path / "s"}
        sweep.run(functions.same, sweep.grid(value=1), executor=executor, **quiet)
