"""Where reports go: files that survive SIGKILL, loggers, Lightning."""

import json
import math
import signal
import subprocess
import sys
import types

import pytest
import torch
from torch import nn

import sigprop
from sigprop.monitoring import CsvLines, JsonLines, Scalars, lightning_callback, read_jsonl
from sigprop.monitoring.writers import COLUMNS
from sigprop.records import read_csv
from tests.measurement.nets import no_hooks_left
from tests.monitoring.nets import fill, seeded, train

RUN = """
import sys, torch, sigprop
from torch import nn
torch.manual_seed(0)
torch.set_num_threads(1)
net = nn.Sequential(nn.Linear(4, 8), nn.PReLU(), nn.Linear(8, 2))
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
with sigprop.monitor(net, 1, to=sys.argv[1:], warn=False) as mon:
    while True:
        optimizer.zero_grad()
        net(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
        print(mon.steps, flush=True)
"""


def test_nothing_written_is_lost_when_the_process_is_killed(tmp_path):
    lines, table = tmp_path / "run.jsonl", tmp_path / "run.csv"
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(lines), str(table)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    told = 0
    while told < 20:
        told = int(process.stdout.readline())
    process.kill()
    told = int(([*process.stdout.read().split(), told])[-2:][0] or told)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    for rows in (read_jsonl(lines), read_csv(table)):
        steps = [row["step"] for row in rows]
        assert steps == [step for step in range(len(rows) // 2) for _ in "ab"]
        assert len(rows) // 2 >= told >= 20  # every step that was told of is there, whole
        assert all(math.isfinite(row["second_moment"]) for row in rows)
        assert rows[0]["slope_mean"] == 0.25 and rows[1]["activation"] in ("", None)


def small():
    return fill(nn.Sequential(nn.Linear(5, 6), nn.PReLU(), nn.Linear(6, 2)))


def watched(**options):
    model = small()
    with sigprop.monitor(model, 2, warn=False, **options) as mon:
        train(model, [seeded(4, 5)] * 3)
    return mon


def test_files_hold_the_records(tmp_path):
    lines, table = tmp_path / "deep" / "run.jsonl", tmp_path / "run.csv"
    mon = watched(to=[lines, str(table)])
    assert read_jsonl(lines) == mon.records()
    for row, seen in zip(read_csv(table), mon.records(), strict=True):
        assert row == {key: None if value == "" else value for key, value in seen.items()} | {
            "name": int(seen["name"]),
            "activation_name": int(seen["activation_name"]) if seen["activation_name"] else None,
        }


def test_a_run_that_goes_on_adds_and_a_torn_line_is_cut(tmp_path):
    rows = watched().records()
    for writer, path in ((JsonLines, tmp_path / "a.jsonl"), (CsvLines, tmp_path / "a.csv")):
        read = read_jsonl if writer is JsonLines else read_csv
        first = writer(path)
        first(rows[:2])
        first.close()
        whole = path.read_bytes()
        path.write_bytes(whole + b'{"step": 2, "na')
        second = writer(path, sync=True)
        second(rows[2:])
        second(rows[2:])
        second.close()
        assert path.read_bytes().startswith(whole) and len(read(path)) == len(rows) + 2
        assert [row["step"] for row in read(path)] == [0, 0, 2, 2, 2, 2]


class Disk:
    """A file that takes a few bytes at a time, until it is full; then a disk with room again."""

    def __init__(self, file, room, at_once, error):
        self.file, self.room, self.at_once, self.error = file, room, at_once, error

    def write(self, content):
        if not self.room:
            raise self.error
        taken = self.file.write(content[: min(self.at_once, self.room)])
        self.room -= taken
        return taken

    def __getattr__(self, name):
        return getattr(self.file, name)


def lines_of(kind, path):
    return [row["name"] for row in (read_jsonl if kind is JsonLines else read_csv)(path)]


@pytest.fixture(params=[JsonLines, CsvLines])
def kind(request):
    return request.param


def rows_of(*names):
    return [{"step": 0, "name": name} for name in names]


def test_short_writes_are_completed(kind, tmp_path):
    path = tmp_path / "run"
    sink = kind(path)
    sink._file = Disk(sink._opened(), 10**6, 7, OSError())
    sink(rows_of("a", "b"))
    sink(rows_of("c"))
    sink.close()
    assert lines_of(kind, path) == ["a", "b", "c"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("room", [0, 5, 40])
@pytest.mark.parametrize("first", [True, False])
def test_a_report_that_does_not_fit_is_taken_back(kind, tmp_path, error, room, first):
    path = tmp_path / "run"
    sink = kind(path)
    if not first:
        sink(rows_of("a"))
    sink._file = Disk(sink._opened(), room, 9, error)
    before = path.read_bytes()
    with pytest.raises(type(error)):
        sink(rows_of("lost", "too"))
    assert path.read_bytes() == before
    sink(rows_of("b"))  # there is room again; the head of a table is there as well
    sink.close()
    assert lines_of(kind, path) == ([] if first else ["a"]) + ["b"]


def test_what_another_process_adds_behind_a_torn_line_stays(kind, tmp_path):
    path = tmp_path / "run"
    sink = kind(path)
    sink(rows_of("a"))

    class Shared(Disk):
        def write(self, content):
            taken = super().write(content)
            with path.open("ab") as other:
                other.write(b"\n" + line)
            return taken

    line = path.read_bytes().splitlines(keepends=True)[-1]
    sink._file = Shared(sink._opened(), 5, 5, OSError(28, "No space left on device"))
    with pytest.raises(OSError):
        sink(rows_of("lost"))
    assert path.read_bytes().endswith(line) and path.read_bytes().count(line) == 2


def test_a_full_device_says_so(kind, tmp_path):
    (tmp_path / "run").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        kind(tmp_path / "run")(rows_of("a"))


def test_a_table_of_other_columns_is_left_alone(tmp_path):
    path, text = tmp_path / "run.csv", "step,loss\n0,1.5\n"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"run\.csv has other columns"):
        sigprop.monitor(nn.Linear(2, 2), to=path)
    path.unlink()
    sink = CsvLines(path)
    path.write_text(text)  # after the run has started
    with pytest.raises(ValueError, match="other columns"):
        sink([{"step": 0, "name": "fc"}])
    assert path.read_text() == text
    path.write_text("")
    sink([{"step": 0, "name": "fc"}])
    assert path.read_text().startswith(",".join(COLUMNS))


def test_json_is_strict_where_numbers_are_not_finite(tmp_path):
    path = tmp_path / "a.jsonl"
    JsonLines(path)([{"step": 0, "a": math.nan, "b": math.inf, "c": -math.inf, "d": None, "e": 1}])
    text = path.read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert read_jsonl(path) == [
        {"step": 0, "a": None, "b": math.inf, "c": -math.inf, "d": None, "e": 1}
    ]
    path.write_bytes(path.read_bytes() + b'{"torn')
    assert len(read_jsonl(path)) == 1
    json.loads(text.replace("1e999", "0"))


def test_a_function_as_logger():
    sent = []
    mon = watched(log=lambda name, value, step: sent.append((name, value, step)))
    row = mon.records()[0]
    assert ("0/second_moment", row["second_moment"], 0) in sent
    assert ("0/slope_mean", row["slope_mean"], 0) in sent
    assert all(isinstance(value, int | float) for _, value, _ in sent)
    assert {step for _, _, step in sent} == {0, 2}
    assert not any(name.endswith(("/step", "/name", "/finding")) for name, _, _ in sent)


def test_tensorboard_and_wandb_style_loggers():
    class Board:
        def __init__(self):
            self.seen = {}

        def add_scalar(self, tag, scalar_value, global_step=None):
            self.seen[tag, global_step] = scalar_value

    class Run:
        def __init__(self):
            self.seen = {}

        def log(self, data, step=None):
            self.seen |= {(name, step): value for name, value in data.items()}

    board, run, plain = Board(), Run(), {}
    model = small()

    def keep(name, value, step):
        plain[name, step] = value

    to = [Scalars(board), Scalars(run)]
    with sigprop.monitor(model, 1, log=keep, to=to, warn=False):
        train(model, [seeded(4, 5)] * 2)
    assert board.seen == run.seen == plain and len(plain) > 20


class CountingRun:
    """A W&B run: what is logged to a step before its own is dropped."""

    def __init__(self):
        self.step, self.seen = 0, {}

    def log(self, data, step=None):
        wanted = self.step if step is None else step
        if wanted < self.step:
            return
        self.step = wanted + (step is None)
        self.seen |= {(name, wanted): value for name, value in data.items()}


@pytest.mark.parametrize("module", [False, True])
def test_a_run_whose_step_is_ahead_loses_nothing(module):
    run, model = CountingRun(), small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    log = types.SimpleNamespace(run=run, log=run.log) if module else run
    with sigprop.monitor(model, 2, log=log, warn=False) as mon:
        for step in range(5):
            model(seeded(4, 5)).square().sum().backward()
            optimizer.step()
            run.log({"loss": 1.0}, step=64 * (step + 1))
    moments = [v for (name, _), v in run.seen.items() if name == "0/second_moment"]
    assert moments == [row["second_moment"] for row in mon.records() if row["name"] == "0"]
    assert [v for (name, _), v in run.seen.items() if name == "monitor/step"] == [0, 2, 4]
    assert sum(name == "loss" for name, _ in run.seen) == 5  # the caller's own are all there


# Lightning: a minimal trainer calls the callback as Lightning's own does


class FakeCallback:
    """What Lightning's Callback is: hooks that do nothing."""


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def fake_lightning(request, monkeypatch):
    for home in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, home, None)
    module = types.ModuleType(request.param)
    module.Callback = FakeCallback
    if "." in request.param:
        monkeypatch.setitem(sys.modules, "lightning", types.ModuleType("lightning"))
    monkeypatch.setitem(sys.modules, request.param, module)


class Logger:
    def __init__(self):
        self.seen = []

    def log_metrics(self, metrics, step=None):
        self.seen.append((step, metrics))


class Module(nn.Module):
    """Its training step calls the parts, never the module itself."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 2)
        fill(self)

    def training_step(self, x):
        return self.b(torch.relu(self.a(x))).square().sum()


def fit(module, callback, steps, logger, fail=False):
    trainer = types.SimpleNamespace(loggers=[logger])
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    callback.on_fit_start(trainer, module)
    try:
        for index in range(steps):
            callback.on_train_batch_start(trainer, module, None, index)

            def closure():
                loss = module.training_step(seeded(4, 5))
                callback.on_before_backward(trainer, module, loss)
                optimizer.zero_grad()
                loss.backward()
                return loss

            optimizer.step(closure)
            callback.on_train_batch_end(trainer, module, None, None, index)
            if fail:
                raise ValueError("mine")
    except ValueError as error:
        callback.on_exception(trainer, module, error)
        callback.teardown(trainer, module, "fit")
        return
    callback.on_fit_end(trainer, module)
    callback.teardown(trainer, module, "fit")


def test_lightning(fake_lightning, tmp_path):
    module, logger = Module(), Logger()
    callback = lightning_callback(every=2, warn=False, to=tmp_path / "run.jsonl")
    assert isinstance(callback, FakeCallback)
    fit(module, callback, 5, logger)
    rows = callback.monitor.records()
    assert [(r["step"], r["name"]) for r in rows] == [(s, n) for s in (0, 2, 4) for n in "ab"]
    assert rows[0]["activation"] == "relu" and rows[0]["grad_second_moment"] > 0
    assert [step for step, _ in logger.seen] == [0, 2, 4]
    assert logger.seen[0][1]["a/second_moment"] == rows[0]["second_moment"]
    assert read_jsonl(tmp_path / "run.jsonl") == rows
    assert not callback.monitor.attached and no_hooks_left(module)
    again = lightning_callback(every=2, warn=False)
    again.load_state_dict(callback.state_dict())
    fit(module, again, 2, logger)
    assert again.monitor.steps == 7 and again.monitor.records()[:6] == rows


def test_lightning_detaches_on_an_exception(fake_lightning):
    module = Module()
    callback = lightning_callback(every=1, warn=False)
    fit(module, callback, 1, Logger(), fail=True)
    assert not callback.monitor.attached and no_hooks_left(module)
    assert len(callback.monitor.records()) == 2


def test_without_lightning_it_says_what_to_install(monkeypatch):
    for home in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, home, None)
    with pytest.raises(ModuleNotFoundError, match="pip install lightning"):
        lightning_callback()


def test_scalars_refuses_what_cannot_log():
    with pytest.raises(TypeError, match="add_scalar"):
        Scalars(3)
