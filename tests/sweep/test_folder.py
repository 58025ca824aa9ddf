"""The folder of a sweep, when something happens to it."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from sigprop import sweep
from sigprop.sweep import keys, store
from tests.sweep import functions
from tests.sweep.functions import calls, marked
from tests.sweep.running import here, values


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


def test_running_again_computes_what_is_missing(tmp_path):
    out, place = tmp_path / "s", str(tmp_path)
    first = here(marked, sweep.grid(x=range(4), place=place), out=out)
    more = here(marked, sweep.grid(x=range(6), place=place), out=out)
    again = here(marked, sweep.grid(x=range(6), place=place), out=out)
    assert [x for x, _ in calls(tmp_path)] == list(range(6))
    assert values(first) == values(more)[:4] and values(more) == values(again)
    assert values(sweep.load(out)) == [x / 7 for x in range(6)]
    fewer = here(marked, sweep.grid(x=[5, 1], place=place), out=out)
    assert values(fewer) == [5 / 7, 1 / 7]
    union = sweep.load(out)  # those asked for last come first
    assert values(union)[:2] == [5 / 7, 1 / 7] and len(union) == 6
    assert "2 of 2 cases finished, and 4 cases asked for before" in str(union)


def test_failures_are_tried_again_when_that_is_asked_for(tmp_path):
    out = tmp_path / "s"
    mark = tmp_path / "mark"

    def touchy(x):
        if x and not mark.exists():
            raise OSError("not yet")
        return x

    cases = sweep.grid(x=range(2))
    assert len(here(touchy, cases, out=out).errors()) == 1
    mark.touch()
    assert len(here(touchy, cases, out=out).errors()) == 1
    assert values(here(touchy, cases, out=out, retry=True)) == [0, 1]
    assert values(sweep.load(out)) == [0, 1] and sweep.load(out).errors() == []


def test_fresh_puts_aside_what_is_there(tmp_path):
    out, place = tmp_path / "s", str(tmp_path)
    cases = sweep.grid(x=range(3), place=place)
    here(marked, cases, out=out)
    result = here(marked, cases, out=out, fresh=True)
    assert len(calls(tmp_path)) == 6 and len(result) == 3
    (aside,) = (out / "old").iterdir()
    assert len((aside / "cases.jsonl").read_text().splitlines()) == 3
    with pytest.raises(ValueError, match="other shards"):
        here(marked, cases, out=out, fresh=True, shard="1/2")


def test_lines_of_another_source_or_version_are_not_used(tmp_path, monkeypatch):
    out, place = tmp_path / "s", str(tmp_path)
    cases = sweep.grid(x=range(2), place=place)
    here(marked, cases, out=out)
    monkeypatch.setattr(keys, "source_key", lambda function: "changed")
    assert len(here(marked, cases, out=out)) == 2
    assert len(calls(tmp_path)) == 4
    here(marked, cases, out=out, threads=2)
    assert len(calls(tmp_path)) == 6
    assert len(sweep.load(out)) == 2  # those of the last one


def test_a_torn_last_line_is_written_again(tmp_path):
    out, place = tmp_path / "s", str(tmp_path)
    cases = sweep.grid(x=range(3), place=place)
    whole = values(here(marked, cases, out=out))
    lines = out / "cases.jsonl"
    content = lines.read_bytes()
    for cut in (1, 2, 30):
        lines.write_bytes(content[:-cut])
        assert len(sweep.load(out)) == 2
        before = len(calls(tmp_path))
        assert values(here(marked, cases, out=out)) == whole
        assert [x for x, _ in calls(tmp_path)[before:]] == [2]
        assert len(lines.read_bytes().splitlines()) == 3


def test_a_line_that_a_disk_has_spoiled_is_computed_again(tmp_path):
    out, place = tmp_path / "s", str(tmp_path)
    cases = sweep.grid(x=range(3), place=place)
    whole = values(here(marked, cases, out=out))
    lines = (out / "cases.jsonl").read_bytes().splitlines(keepends=True)
    zeros, cut = bytes(len(lines[1]) - 1) + b"\n", lines[1][:70] + b"}\n"
    for number, spoiled in enumerate((zeros, cut), start=1):
        (out / "cases.jsonl").write_bytes(lines[0] + spoiled + lines[2])
        assert values(here(marked, cases, out=out)) == whole
        assert [x for x, _ in calls(tmp_path)[2 + number :]] == [1]


def test_shards_write_beside_each_other_and_are_read_together(tmp_path):
    out, place = tmp_path / "s", str(tmp_path)
    cases = sweep.grid(x=range(7), place=place)
    parts = [here(marked, cases, out=out, shard=f"{n}/3") for n in (2, 3)]
    assert [len(part) for part in parts] == [2, 2]
    assert "4 of 7 cases" in str(sweep.load(out))
    here(marked, cases, out=out, shard=(1, 3))
    assert values(sweep.load(out)) == [x / 7 for x in range(7)]
    assert sorted(path.name for path in out.glob("*.jsonl")) == [
        f"cases-{n}-of-3.jsonl" for n in (1, 2, 3)
    ]
    here(marked, cases, out=out)  # nothing is missing
    assert sorted(x for x, _ in calls(tmp_path)) == list(range(7))


def test_shards_may_begin_at_the_same_moment(tmp_path):
    about = {"function": "f", "of": "0" * 8}
    stores = [store.Store(tmp_path, store.Shard(n, 3), about) for n in (1, 2, 3)]
    for each in stores:
        each.ask([])
        each.close()


@pytest.mark.parametrize(
    ("shard", "error"),
    [("0/3", ValueError), ("4/3", ValueError), ("3", TypeError), ((1, 2, 3), TypeError),
     ("a/b", TypeError), (3, TypeError), ((1.0, 2), TypeError)],
)  # fmt: skip
def test_parts_that_are_none(shard, error):
    with pytest.raises(error, match="shard"):
        here(functions.same, [{"value": 1}], shard=shard)


def test_a_folder_of_something_else_is_refused(tmp_path):
    out = tmp_path / "s"
    here(functions.same, [{"value": 1}], out=out)
    with pytest.raises(ValueError, match=r"holds a sweep of tests.sweep.functions:same, not of"):
        here(functions.square, [{"x": 1}], out=out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"other things \(thesis.tex\)"):
        here(functions.same, [{"value": 1}], out=tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="holds no sweep"):
        sweep.load(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        sweep.load(tmp_path / "nowhere")
    (out / "sweep.json").unlink()
    with pytest.raises(ValueError, match="says of what"):
        here(functions.same, [{"value": 1}], out=out)
    with pytest.raises(FileExistsError):
        here(functions.same, [{"value": 1}], out=tmp_path / "other" / "thesis.tex")


def test_two_processes_never_add_to_the_same_lines(tmp_path):
    out = tmp_path / "s"
    here(functions.same, [{"value": 1}], out=out)
    with (out / "cases.jsonl").open("ab") as file:
        assert store._lock(file) and store.is_written(out)
        with pytest.raises(BlockingIOError, match="the same sweep is running"):
            here(functions.same, [{"value": 2}], out=out)
        assert values(sweep.load(out)) == [1]
    assert not store.is_written(out)
    with (out / "cases.jsonl").open("rb") as one, (out / "cases.jsonl").open("rb") as other:
        assert store._lock(one, look=True) and store._lock(other, look=True)


def test_a_full_disk_loses_nothing_that_was_written(tmp_path, monkeypatch):
    out = tmp_path / "s"
    written = []

    def full(file, content, start):
        if len(written) == 2:
            file.write(content[:10])
            os.ftruncate(file.fileno(), start)
            raise OSError(28, "No space left on device")
        written.append(file.write(content))

    with monkeypatch.context() as patched:
        patched.setattr(store, "append_whole", full)
        with pytest.raises(OSError, match=r"No space left.*2 of 5 cases are finished and kept in"):
            here(functions.same, sweep.grid(value=range(5)), out=out, batch=1)
    assert values(sweep.load(out)) == [0, 1]
    assert values(here(functions.same, sweep.grid(value=range(5)), out=out)) == list(range(5))
