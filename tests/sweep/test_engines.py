"""Real engines: processes, loky, submitit, Dask over TCP; workers that die, a scheduler too."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sigprop import sweep
from sigprop.sweep import engines
from tests.sweep import functions
from tests.sweep.functions import calls, marked
from tests.sweep.running import here, quietly, values

ROOT = Path(__file__).parents[2]
CASES = sweep.grid(x=range(12))


@pytest.fixture
def path(monkeypatch):
    """Processes that others start find the tests, and write no compiled files."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")


def test_processes_give_the_same_numbers_bit_for_bit():
    cases = sweep.grid(x=range(6))
    alone = here(functions.lucky, cases).records()
    assert quietly(functions.lucky, cases, workers=2).records() == alone
    assert quietly(functions.lucky, list(cases)[::-1], workers=1).records() == alone[::-1]


def test_torch_has_one_thread_and_a_seed_in_every_process():
    alone = here(functions.product, sweep.grid(seed=range(2))).records()
    lucky = here(functions.lucky_torch, sweep.grid(x=range(2))).records()
    assert {row["threads"] for row in alone} == {1}
    with engines_of(1, functions.product) as found:
        assert found(sweep.grid(seed=range(2))) == alone
    assert quietly(functions.lucky_torch, sweep.grid(x=range(2)), workers=1).records() == lucky


@contextmanager
def engines_of(workers, function):
    yield lambda cases: quietly(function, cases, workers=workers).records()


def test_a_process_begins_with_one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = quietly(functions.settings, sweep.grid(x=range(8)), workers=2, batch=1).records()
    assert {row["omp"] for row in found} == {"1"}
    assert os.getpid() not in {row["process"] for row in found}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    monkeypatch.delenv("OMP_NUM_THREADS")
    (row,) = quietly(functions.settings, [{"x": 1}], workers=1).records()
    assert row["omp"] == "1" and "OMP_NUM_THREADS" not in os.environ


def test_a_case_that_kills_its_worker_is_named_and_takes_no_other_with_it(tmp_path):
    result = quietly(functions.deadly, CASES, workers=2, out=tmp_path / "s")
    assert values(result) == [x for x in range(12) if x != 5]
    (error,) = result.errors()
    assert error["x"] == 5
    assert error["error"].startswith("WorkerDied: 3 times the worker died that ran this case alone")
    assert "SIGKILL" in error["error"]


def test_a_worker_that_dies_once_costs_nothing(tmp_path):
    result = quietly(functions.deadly_once, sweep.grid(x=range(5), place=str(tmp_path)), workers=2)
    assert values(result) == list(range(5)) and not result.errors()


def test_an_executor_that_is_given_or_made():
    with ProcessPoolExecutor(2) as pool:
        assert values(quietly(functions.same, sweep.grid(value=range(9)), executor=pool)) == [
            *range(9)
        ]
        with pytest.raises(RuntimeError, match=r"a worker of ProcessPoolExecutor died.*\{'x': 5\}"):
            quietly(functions.deadly, CASES, executor=pool)
    made = []

    def make():
        made.append(ProcessPoolExecutor(2))
        return made[-1]

    result = quietly(functions.deadly, CASES, executor=make)
    assert values(result) == [x for x in range(12) if x != 5]
    assert [error["x"] for error in result.errors()] == [5] and len(made) >= 4


class KilledWorker(Exception):
    """As Dask names it."""


class Fragile(Executor):
    """Loses a worker with the first case that it is given, and all that is under way with it.

    ``together``: cases that are under way before one of them is lost.
    """

    def __init__(self, log, broken, error=BrokenExecutor, together=1):
        self.log, self.broken, self.error, self.under_way = log, broken, error, 0
        self.together, self.complete = together if broken else 1, threading.Event()

    def submit(self, function, batch):
        future = Future()
        self.under_way += 1
        self.log.append((batch.cases[0]["value"], self.under_way))
        late = 0.05 if self.under_way > 1 else 0.01
        if self.under_way >= self.together:
            self.complete.set()

        def end():
            self.complete.wait(timeout=20)
            self.under_way -= 1
            if self.broken > 0:
                self.broken -= 1
                future.set_exception(self.error())
            else:
                future.set_result(function(batch))

        threading.Timer(late, end).start()
        return future


def test_what_was_under_way_in_a_broken_executor_runs_again_one_by_one(monkeypatch):
    monkeypatch.setattr("sigprop.sweep.coordinator.LOOK", 0.005)
    monkeypatch.setattr("sigprop.sweep.engines.cores", lambda: 2)
    log = []
    result = quietly(
        functions.same, sweep.grid(value=range(9)), batch=1,
        executor=lambda: Fragile(log, broken=0 if log else 4, together=4),
    )  # fmt: skip
    assert values(result) == list(range(9))
    assert sorted(log[:4]) == [(value, value + 1) for value in range(4)]
    assert {value for value, _ in log[4:8]} == set(range(4))
    assert [together for _, together in log[4:9]] == [1] * 5  # and what comes next waits for them


def test_what_waited_at_a_worker_that_died_is_not_to_blame(monkeypatch):
    """Dask blames all tasks of a worker; alone, they are seen to be innocent."""
    monkeypatch.setattr("sigprop.sweep.engines.cores", lambda: 2)
    log = []
    result = quietly(
        functions.same, sweep.grid(value=range(9)), batch=1,
        executor=Fragile(log, broken=4, error=KilledWorker, together=4),
    )  # fmt: skip
    assert values(result) == list(range(9)) and not result.errors()
    (error,) = quietly(
        functions.same, [{"value": 1}], executor=Fragile([], broken=2, error=KilledWorker)
    ).errors()  # once beside others, once alone
    assert error["error"].startswith("WorkerDied: the worker died that ran this case alone: Killed")


def test_loky(path):
    loky = pytest.importorskip("loky")
    executor = loky.get_reusable_executor(2)
    try:
        alone = here(functions.lucky, CASES).records()
        assert quietly(functions.lucky, CASES, executor=executor).records() == alone
        k = 3  # a function that only its value can send
        assert values(quietly(lambda x: x + k, CASES, executor=executor)) == [
            x + 3 for x in range(12)
        ]
    finally:
        executor.shutdown(wait=True)


def test_jobs_that_are_asked_whether_they_are_done(path, tmp_path):
    submitit = pytest.importorskip("submitit")
    executor = submitit.AutoExecutor(str(tmp_path / "jobs"), cluster="local")
    executor.update_parameters(timeout_min=1)
    with sweep.Polled(executor.submit, workers=2, every=0.1) as polled:
        result = quietly(functions.fails_on_odd, sweep.grid(x=range(4)), executor=polled, batch=2)
    assert values(result) == [0, 2] and len(result.errors()) == 2


class Job:
    """What a queue hands out."""

    def __init__(self, function, *arguments):
        self.at = time.monotonic() + 0.01
        self.call = lambda: function(*arguments)

    def done(self):
        return time.monotonic() > self.at

    def result(self):
        return self.call()


class Lost(Job):
    def result(self):
        raise RuntimeError("the node is gone")


def test_a_job_whose_node_is_gone_is_tried_again_and_named():
    tries = []

    def submit(function, batch):
        tries.append(len(batch.cases))
        lost = any(case["value"] == 3 for case in batch.cases)
        return (Lost if lost else Job)(function, batch)

    with sweep.Polled(submit, workers=2, every=0.01) as polled:
        result = quietly(functions.same, sweep.grid(value=range(6)), executor=polled, batch=2)
    assert values(result) == [0, 1, 2, 4, 5]
    (error,) = result.errors()
    assert "3 times the worker died" in error["error"] and "the node is gone" in error["error"]
    with pytest.raises(TypeError, match="submit must be a function"):
        sweep.Polled(None)
    with pytest.raises(RuntimeError, match="shut down"):
        polled.submit(pow, 1, 2)


@contextmanager
def cluster(tmp_path):
    """A scheduler and two workers, each a process, over TCP on this machine."""
    place = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    settings = os.environ | {
        "PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__WORKER__DAEMON": "true",
        "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    name = [sys.executable, "-m", "distributed.cli."]
    scheduler = subprocess.Popen(
        [*name[:2], "distributed.cli.dask_scheduler", "--host", "tcp://127.0.0.1:0",
         "--no-dashboard", "--dashboard-address", ":0", "--scheduler-file", str(place)],
        env=settings, **quiet,
    )  # fmt: skip
    workers = [
        subprocess.Popen(
            [*name[:2], "distributed.cli.dask_worker", "--scheduler-file", str(place),
             "--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path)],
            env=settings, **quiet,
        )
        for _ in range(2)
    ]  # fmt: skip
    try:
        yield scheduler, place
    finally:
        for process in (*workers, scheduler):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started
            process.wait(20)


@pytest.mark.filterwarnings("ignore")  # Dask's own, when a scheduler is gone
def test_dask_over_tcp_and_the_death_of_its_scheduler(tmp_path):
    distributed = pytest.importorskip("distributed")
    with (
        cluster(tmp_path) as (scheduler, place),
        distributed.Client(scheduler_file=str(place), timeout=60) as client,
    ):
        client.wait_for_workers(2, timeout=60)
        executor = client.get_executor(pure=False)
        client.run(functions.draws_beside)
        alone = here(functions.lucky, CASES).records()
        assert quietly(functions.lucky, CASES, executor=executor).records() == alone
        deadly = quietly(functions.deadly, CASES, executor=executor)
        assert values(deadly) == [x for x in range(12) if x != 5]
        (error,) = deadly.errors()
        assert error["x"] == 5 and "KilledWorker" in error["error"]
        out, cases = tmp_path / "s", sweep.grid(x=range(40), place=str(tmp_path), seconds=0.1)
        killed = []

        def kill(done, total):
            if done >= 5 and not killed:
                killed.append(scheduler.kill())

        with pytest.raises(ConnectionError, match=r"scheduler is gone.*are finished and kept in"):
            sweep.run(marked, cases, executor=executor, out=out, progress=kill)
        kept = len(sweep.load(out))
        assert 5 <= kept < 40
    count = len(calls(tmp_path))
    rest = sweep.grid(x=range(40), place=str(tmp_path), seconds=0.1)
    assert len(here(marked, rest, out=out)) == 40
    assert len(calls(tmp_path)) == count + 40 - kept


def test_functions_that_no_other_process_can_import(monkeypatch):
    k = 2

    def inner(x):
        return x + k

    assert values(quietly(inner, sweep.grid(x=range(3)), workers=1)) == [2, 3, 4]
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    for function in (inner, lambda x: x):
        with pytest.raises(
            TypeError, match=r"(?s)made inside a function.*into a file.*cloudpickle.*workers=0"
        ):
            quietly(function, [{"x": 1}], workers=1)
    monkeypatch.undo()
    script = type(functions.same)(functions.same.__code__, {}, "of_a_script")
    script.__module__ = script.__qualname__ = "__main__"
    script.__qualname__ = "of_a_script"
    monkeypatch.setattr(sys.modules["__main__"], "of_a_script", script, raising=False)
    pickled, named = engines.portable(script)
    assert not named and pickle.loads(pickled)(3) == 3  # another main has no such function
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    prompt = type(functions.same)(functions.same.__code__, {}, "typed")
    prompt.__module__, prompt.__qualname__ = "__main__", "typed"
    with pytest.raises(TypeError, match="typed at a prompt or in a notebook"):
        engines.portable(prompt)


def test_a_function_that_is_not_there(monkeypatch):
    assert pickle.loads(engines.portable(functions.same)[0]) is functions.same
    monkeypatch.setattr(engines, "portable", lambda function: (b"cno.such.module\nf\n.", True))
    monkeypatch.setattr("sigprop.sweep.coordinator.portable", engines.portable)
    with pytest.raises(RuntimeError, match=r"same is not to be had where the cases run.*no"):
        quietly(functions.same, [{"value": 1}], workers=1)


def test_another_source_on_the_other_side_is_told(monkeypatch):
    monkeypatch.setattr("sigprop.sweep.coordinator.source_key", lambda function: "of yesterday")
    with pytest.raises(RuntimeError, match=r"source of same on .* differs"):
        quietly(functions.same, [{"value": 1}], workers=1)


@pytest.mark.parametrize("executor", ["dask", 3, object(), sweep])
def test_what_is_no_executor(executor):
    with pytest.raises(TypeError, match=r"concurrent.futures.Executor .*sweep.Polled"):
        quietly(functions.same, [{"value": 1}], executor=executor)


def test_the_workers_of_an_executor():
    with ThreadPoolExecutor(5) as pool:
        assert engines.capacity(pool) == 5
    assert engines.capacity(object()) == engines.cores() == len(os.sched_getaffinity(0))


def test_a_job_takes_the_cores_that_it_was_given(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3})
    assert engines.cores() == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    assert engines.cores() == os.cpu_count()


def test_workers_that_come_later_are_counted(monkeypatch):
    """A cluster that begins with one worker and grows."""
    monkeypatch.setattr("sigprop.sweep.coordinator.LOOK", 0.01)
    running, most = [], []

    def submit(function, batch):
        running.append(batch)
        most.append(len(running))
        executor.workers = 3

        def end():
            running.remove(batch)
            return function(batch)

        job = Job(end)
        job.at += 0.05
        return job

    with sweep.Polled(submit, workers=1, every=0.005) as executor:
        result = quietly(functions.same, sweep.grid(value=range(20)), executor=executor, batch=1)
    assert len(result) == 20 and most[:2] == [1, 2] and max(most) == 6


def test_devices_have_a_process_each(tmp_path):
    cases = sweep.grid(x=range(8), place=str(tmp_path))
    found = quietly(functions.on, cases, devices=["cpu:0", "cpu:1"], batch=1).records()
    assert all(row["alone"] for row in found)
    assert {row["device"] for row in found} == {"cpu:0", "cpu:1"}
