"""How far a sweep is: while it runs, after failures, with lines of an older source."""

import threading

import pytest

from sigprop import sweep
from sigprop.sweep import store


def halved(depth, even=True):
    if depth % 2 and even:
        raise ValueError(f"depth {depth % 3} is odd\nsecond line")
    return depth / 2


def ran(folder, depths, function=halved, **options):
    return sweep.run(
        function, sweep.grid(depth=depths), out=folder, workers=0, progress=False, **options
    )


def test_finished_failed_and_missing_are_counted_once(tmp_path):
    ran(tmp_path, range(6))
    found = sweep.status(tmp_path)
    assert (found.asked, found.finished, found.failed, found.missing) == (6, 6, 3, 0)
    assert found.errors == {
        "ValueError: depth 1 is odd": 1,
        "ValueError: depth 0 is odd": 1,
        "ValueError: depth 2 is odd": 1,
    }
    assert not found.writing and found.older == 0 and found.seconds_left == 0
    assert "6 of 6 cases finished, 3 of them raised" in str(found) and "retry" in str(found)
    ran(tmp_path, [1, 1, 2], retry=True)  # asked for last: two cases; one has two lines by now
    found = sweep.status(tmp_path)
    assert (found.asked, found.finished, found.failed) == (2, 2, 1)


def test_what_is_missing_has_a_time(tmp_path):
    ran(tmp_path, range(0, 40, 2), shard="2/4")
    found = sweep.status(tmp_path)
    assert (found.asked, found.finished, found.missing) == (20, 5, 15)
    seconds = [line["seconds"] for line in sweep.load(tmp_path).lines()]
    assert found.seconds == sorted(seconds)[2]
    assert found.seconds_left == pytest.approx(15 * sum(seconds) / 5)
    assert "no process is adding cases" in str(found)


def test_it_is_asked_while_the_sweep_runs(tmp_path):
    asked, seen = threading.Event(), []

    def told(done, total):
        if done == 2:
            seen.append(sweep.status(tmp_path))
            asked.set()

    cases = sweep.grid(depth=range(0, 8, 2))
    sweep.run(halved, cases, out=tmp_path, workers=0, progress=told, batch=1)
    assert asked.is_set()
    assert (seen[0].finished, seen[0].writing) == (2, True)
    assert "a process is adding cases now" in str(seen[0])
    assert not sweep.status(tmp_path).writing


def test_a_torn_line_and_lines_of_another_source_do_not_count(tmp_path):
    ran(tmp_path, [2, 4])
    lines = tmp_path / "cases.jsonl"
    text = lines.read_text()
    of = store.about(tmp_path)["of"]
    lines.write_text(text.replace(of, "0" * 8) + text[: text.index("\n") + 1] + text[:-20][-40:])
    found = sweep.status(tmp_path)
    assert (found.finished, found.older) == (1, 2)
    assert "2 lines are of another source" in str(found)


def test_axes_and_the_way_they_are_taken(tmp_path):
    def kept(cases):
        sweep.run(halved, cases, out=tmp_path, workers=0, progress=False)
        return sweep.status(tmp_path)

    found = kept(sweep.grid(depth=[2, 4], even=[True, False]))
    assert (found.axes, found.zipped) == ({"depth": [2, 4], "even": [True, False]}, False)
    assert kept(sweep.zip(depth=[2, 4], even=[True, False])).zipped
    found = kept([{"depth": 2}, {"depth": 4, "even": False}])
    assert (found.axes, found.zipped, found.asked) == (None, False, 2)


def test_a_folder_without_a_sweep(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no sweep"):
        sweep.status(tmp_path)
    (tmp_path / store.ABOUT).write_text("[]")
    with pytest.raises(ValueError, match="is not of a sweep"):
        sweep.status(tmp_path)
