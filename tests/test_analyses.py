"""Every analysis at its quick size: compute, check, draw; the runner; what is in figures/."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import pytest

from analyses import _run
from sigprop.records import read_csv, write_csv

matplotlib.use("Agg")
NAMES = _run.names()
SLOW = (
    "bench_core", "bench_sweep", "bench_theory", "calibration", "check_calibration", "dead_units",
    "digits_accuracy", "edge_of_chaos", "expected_regions", "finite_width", "init_peers",
    "init_slopes", "init_targets", "loss_along_line", "monitor", "phase_diagram_nets",
    "phase_diagrams", "phased_relu", "real_models", "region_bounds", "regions_in_training",
    "slope_and_gain", "trainable_depth",
)  # fmt: skip
"""Two seconds and more even at their quick size: computed by ``pytest -m slow`` only."""


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("figures")


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in NAMES],
)
def done(request, out):
    """An analysis that was run once at its quick size: its name and its record."""
    return request.param, _run.run(request.param, out, quick=True)


@pytest.fixture(scope="module", autouse=True)
def coarse():
    """Pictures of few points, which are written faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(_run.STYLE, "savefig.dpi", 40)
        yield


def test_the_claim_holds_at_quick_size(done, out):
    name, record = done
    assert record["verdict"] == "holds"
    stored = json.loads((out / f"{name}.json").read_text())
    assert stored["parameters"] and stored["versions"]["torch"] and stored["device"]
    assert not plt.get_fignums()


def test_rows_are_flat_and_checked_from_csv(done, out):
    name, _ = done
    module = _run.load(name)
    rows = read_csv(out / f"{name}.csv")
    flat = (int, float, str, bool, type(None))
    assert all(isinstance(value, flat) for row in rows for value in row.values())
    module.check(rows)
    assert all(picture.is_file() for picture in _run.pictures(name, out))


@pytest.mark.parametrize("name", NAMES)
def test_an_analysis_keeps_the_contract(name):
    module = _run.load(name)
    for word in ("Prediction", "Answer:", "Source:", "Run time:"):
        assert word in module.__doc__, f"{name}: the docstring has no {word}"
    assert _run.question(module).endswith("?")
    assert type(module.FULL) is type(module.QUICK)
    assert "seed" in {field.name for field in dataclasses.fields(module.FULL)}
    with pytest.raises(dataclasses.FrozenInstanceError):
        module.FULL.seed = 1


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_in_figures_holds(name):
    rows, record = _run.stored(name)
    assert record["verdict"] == "holds" and not record["quick"]
    _run.load(name).check(rows)
    assert all(10_000 < p.stat().st_size < 300_000 for p in _run.pictures(name))


def test_a_check_can_fail(done, out):
    """What stands for a measurement is spoiled: no check may look away."""
    name, _ = done
    assert_spoiled_rows_fail(name, read_csv(out / f"{name}.csv"))


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_check_can_fail(name):
    assert_spoiled_rows_fail(name, _run.stored(name)[0])


def assert_spoiled_rows_fail(name, rows):
    spoiled = {
        "p_value": lambda _: 1e-9,
        "z": lambda z: z + 9,
        "ks_p": lambda _: 1e-9,
        "step_error": lambda error: error + 1,
        "p": lambda p: p**4,
        "loaded": lambda _: "torch",
        "accuracy": lambda share: 1 - share,
        "waits": lambda number: number + 1,
        "regions": lambda counted: 2 * counted,
        "forward_median": lambda error: error + 1,
        "decades": lambda error: error + 9,
        "level": lambda _: "unhealthy",
        "q": lambda q: q**2,
        "backward": lambda growth: growth + 1,
    }
    for row in rows:
        for key, spoil in spoiled.items():
            if key in row:
                row[key] = spoil(row[key] or 0)
    with pytest.raises(AssertionError):
        _run.load(name).check(rows)


def test_the_committed_gallery_is_what_the_command_writes():
    """After an analysis, its docstring or its pictures change: ``python -m analyses --gallery``."""
    assert (_run.FIGURES / "README.md").read_text(encoding="utf-8") == _run.gallery()


def test_the_gallery_shows_every_file_of_the_folder_and_no_other():
    page = (_run.FIGURES / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\(([^)/]+)\)", page)
    assert sorted(linked) == sorted(p.name for p in _run.FIGURES.iterdir() if p.name != "README.md")
    assert all((_run.ROOT / "analyses" / f"{name}.py").is_file() for name in NAMES)
    assert all(f"`python -m analyses {name}` took " in page for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_can_be_read_alone(name):
    answer = _run.answer(_run.load(name))
    assert 40 < len(answer) < 330 and answer.endswith("."), answer
    assert not re.match(r"(yes|no|as predicted|so it is|see )[^,]*[.:]?$", answer, re.IGNORECASE)


def test_the_gallery_reads_docstring_record_and_folder(monkeypatch, tmp_path):
    words = """Is it so?

Answer: it is .5 of 3. More of it
 is said here.
Source: none.
Run time: 1 s.
"""
    monkeypatch.setattr(_run, "names", lambda: ["stub"])
    monkeypatch.setattr(_run, "load", lambda name: SimpleNamespace(__doc__=words, __name__="stub"))
    with pytest.raises(FileNotFoundError, match="run the analysis first"):
        _run.gallery(tmp_path)
    (tmp_path / "stub.json").write_text('{"seconds": 150, "device": "cpu"}')
    (tmp_path / "stub-more.png").touch()
    assert _run.main(["--gallery", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "## Is it so?\n\nIt is .5 of 3.\n\n![Is it so?](stub.png)" in page
    assert "![Is it so?](stub-more.png)" in page and "More" not in page
    assert "took 2.5 min (cpu)" in page
    words = words.replace("it is .5", "β is .5")  # no capital, which would be a B
    assert "\n\nβ is .5 of 3.\n" in _run.gallery(tmp_path)


def test_list_names_every_analysis(capsys):
    assert _run.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in NAMES) and listed.count("?") == len(NAMES)


def test_an_unknown_name_is_met_with_the_nearest_ones(capsys):
    assert _run.main(["variance_propagatoin"]) == 2
    error = capsys.readouterr().err
    assert "'variance_propagatoin'" in error and "did you mean variance_propagation" in error


@pytest.mark.parametrize("name", SLOW)
def test_a_picture_is_drawn_from_the_csv_alone(name, monkeypatch, tmp_path):
    rows, _ = _run.stored(name)
    write_csv(rows, tmp_path / f"{name}.csv")
    monkeypatch.setattr(_run.load(name), "compute", None)
    assert _run.main(["--redraw", "--out", str(tmp_path), name]) == 0
    drawn = {path.name for path in tmp_path.iterdir()} - {f"{name}.csv"}
    assert drawn == {picture.name for picture in _run.pictures(name)}


def test_redraw_without_a_csv_says_what_to_do(tmp_path, capsys):
    assert _run.main(["--redraw", "--out", str(tmp_path), "calibration"]) == 2
    assert "run the analysis without --redraw" in capsys.readouterr().err


def test_a_failed_claim_is_recorded_drawn_and_exits_with_1(monkeypatch, tmp_path, capsys):
    def check(rows):
        assert rows[0]["seed"] == 0, f"seed is {rows[0]['seed']}"

    stub = SimpleNamespace(
        __doc__="Is zero zero?",
        FULL=OnlySeed(),
        QUICK=OnlySeed(),
        compute=lambda params: [{"seed": params.seed}],
        check=check,
        draw=lambda rows: plt.figure(),
    )
    monkeypatch.setattr(_run, "names", lambda: ["stub"])
    monkeypatch.setattr(_run, "load", lambda name: stub)
    assert _run.main(["--quick", "--out", str(tmp_path)]) == 0
    assert _run.main(["--quick", "--out", str(tmp_path), "--seed", "3"]) == 1
    assert json.loads((tmp_path / "stub.json").read_text())["verdict"] == (
        "does not hold: seed is 3"
    )
    assert (tmp_path / "stub.png").is_file()
    assert "claims that do not hold: stub" in capsys.readouterr().err


@dataclasses.dataclass(frozen=True)
class OnlySeed:
    seed: int = 0


@pytest.fixture
def stubs(monkeypatch):
    """Analyses of one row each; what one does when it computes can be planted."""
    plans = {}

    def load(name):
        def compute(params):
            plans.get(name, lambda: None)()
            return [{"name": name, "nan": float("nan")}]

        return SimpleNamespace(
            __doc__=f"Is {name} there?", FULL=OnlySeed(), QUICK=OnlySeed(), compute=compute,
            check=lambda rows: None, draw=lambda rows: plt.figure(),
        )  # fmt: skip

    monkeypatch.setattr(_run, "names", lambda: ["one", "two", "three"])
    monkeypatch.setattr(_run, "load", load)
    return plans


def press():
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_ends_with_the_analyses_that_are_finished(stubs, tmp_path, capsys):
    """The one under way is as it was before."""
    assert _run.main(["--out", str(tmp_path), "two"]) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    stubs["two"] = press
    assert _run.main(["--out", str(tmp_path)]) == 130
    error = capsys.readouterr().err
    assert error == f"interrupted; finished and written to {tmp_path}: one\n"
    assert all((tmp_path / name).read_bytes() == content for name, content in before.items())
    assert {path.stem for path in tmp_path.iterdir()} == {"one", "two"}
    stubs["one"] = press
    assert _run.main(["--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err.endswith(": none\n")


def test_ctrl_c_while_an_analysis_is_written_waits_for_all_of_it(
    stubs, tmp_path, capsys, monkeypatch
):
    write_json = _run.write_json
    monkeypatch.setattr(_run, "write_json", lambda *given: (press(), write_json(*given)))
    assert _run.main(["--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err.endswith(": one\n")
    assert {path.name for path in tmp_path.iterdir()} == {"one.csv", "one.json", "one.png"}


def test_the_place_of_results_is_looked_at_before_the_work(stubs, tmp_path, capsys):
    (tmp_path / "file").touch()
    stubs["one"] = lambda: pytest.fail("the work has begun")
    assert _run.main(["--out", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--list", "one"], "with --list, names does nothing"),
        (["--list", "--quick", "--out", "x"], "with --list, --quick, --out does nothing"),
        (["--redraw", "--seed", "0"], "with --redraw, --seed does nothing"),
        (["--redraw", "--mnist", "x"], "with --redraw, --mnist does nothing"),
    ],
)
def test_an_option_that_does_nothing_is_refused(stubs, capsys, arguments, words):
    assert _run.main(arguments) == 2
    assert words in capsys.readouterr().err


def test_quick_runs_stay_out_of_figures():
    assert _run.QUICK_FIGURES != _run.FIGURES
    assert f"{_run.QUICK_FIGURES.name}/" in (_run.ROOT / ".gitignore").read_text().split()


def test_the_command_itself():
    """What it says is what ``main`` says; the list, which loads all analyses, is read above."""
    done = subprocess.run(
        [sys.executable, "-m", "analyses", "no_such"],
        cwd=_run.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "unknown analysis 'no_such'" in done.stderr
