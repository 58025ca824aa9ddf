"""``sigprop check`` as a user meets it: exit codes, files, messages."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from sigprop import cli
from sigprop.checking import Finding
from sigprop.checking.entry import check as real_check
from sigprop.records import read_csv, read_json

MINE = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))

def always_the_same():
    torch.manual_seed(0)
    return build()

made_before = build()

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 8), nn.Linear(8, 4)

    def forward(self, tokens, scale):
        return self.head(self.table(tokens)) * scale

def tanh():
    layers = [part for _ in range(50) for part in (nn.Linear(64, 64), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(64, 10))

def number():
    return 7
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return lambda *arguments: cli.main(["check", *map(str, arguments)])


@pytest.fixture
def sick_is(monkeypatch):
    """Make ``check`` find something in the nets of some seeds."""

    def plant(**problems):
        def check(model, x, *, init, level, seed):
            report = real_check(model, x, init=init, level=level, seed=seed)
            found = [Finding("0", p, "by hand", "Do this.", "unhealthy")
                     for p in problems.get(f"seed{seed}", ())]  # fmt: skip
            return replace(report, findings=tuple(found))

        monkeypatch.setattr("sigprop.checking.entry.check", check)

    return plant


def test_a_healthy_net_ends_with_0_and_prints_the_report(run, sick_is, capsys):
    sick_is()
    assert run("mine:build", "--input", "32,8") == 0
    out = capsys.readouterr().out
    assert out.startswith("healthy: nothing to report (Sequential, 2 weight layers)")
    assert "0      Linear" in out and "law of weights" in out


def test_an_unhealthy_net_ends_with_1_and_says_what_to_do(run, sick_is, capsys):
    sick_is(seed0=["it explodes"])
    assert run("mine.py:build", "--input", "32,8") == 1
    out = capsys.readouterr().out
    assert "unhealthy: 1 problem" in out and "UNHEALTHY  it explodes" in out
    assert "What to do: Do this." in out


def test_page_rows_and_json_are_written(run, sick_is, capsys, tmp_path):
    sick_is(seed0=["it explodes"])
    files = ["--html", "page.html", "--csv", "rows.csv", "--json", "check.json"]
    assert run("mine:build", "--input", "32,8", *files) == 1
    assert "wrote page.html, rows.csv, check.json" in capsys.readouterr().out
    assert "it explodes" in (tmp_path / "page.html").read_text()
    assert [row["name"] for row in read_csv(tmp_path / "rows.csv")] == [0, 2]
    found = read_json(tmp_path / "check.json")
    assert found["healthy"] is False
    assert found["nets"][0]["findings"][0]["problem"] == "it explodes"
    assert [row["operation"] for row in found["layers"]] == ["Linear", "Linear"]


def test_json_without_a_file_is_all_that_is_printed(run, sick_is, capsys):
    sick_is()
    assert run("mine:build", "--input", "32,8", "--json") == 0
    assert json.loads(capsys.readouterr().out)["healthy"] is True


def test_several_seeds_tell_the_spread_and_the_worst(run, sick_is, capsys, tmp_path):
    sick_is(seed1=["one"], seed2=["one", "two"])
    command = ["mine:build", "--input", "32,8", "--seeds", 4, "--csv", "rows.csv"]
    assert run(*command) == 1
    out = capsys.readouterr().out
    assert out.startswith("unhealthy: 2 of 4 nets are unhealthy")
    assert "the worst, seed 2:" in out
    rows = read_csv(tmp_path / "rows.csv")
    assert [row["seed"] for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len({row["q"] for row in rows}) == 8


def test_a_seed_builds_the_net_of_that_seed(run, capsys, tmp_path):
    assert run("mine:build", "--input", "16,8", "--seeds", 2, "--csv", "rows.csv") in (0, 1)
    capsys.readouterr()
    gains = [row["gain"] for row in read_csv(tmp_path / "rows.csv")]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = torch.nn.Linear(8, 64).weight.detach()
    assert gains[2] == pytest.approx(float((8 * first.square().mean()).sqrt()), rel=1e-5)


def test_the_random_state_of_the_caller_stays(run, capsys):
    before = torch.get_rng_state()
    run("mine:build", "--input", "16,8", "--seeds", 2)
    capsys.readouterr()
    assert torch.equal(before, torch.get_rng_state())


def seen(run, monkeypatch, *arguments):
    """What the command hands to ``check``."""
    got = []

    def check(model, x, **options):
        got.append((model, x, options))
        return real_check(model, x, **options)

    monkeypatch.setattr("sigprop.checking.entry.check", check)
    assert run(*arguments) in (0, 1)
    return got[0]


def test_inputs_by_place_and_by_name(run, monkeypatch, capsys):
    _, x, _ = seen(run, monkeypatch, "mine:Two", "--input", "3,5:int64", "--input", "3,5,1")
    assert x == (((3, 5), torch.int64), (3, 5, 1))
    named = ["--input", "3,5:int64", "--input", "scale=3,5,1"]
    _, x, _ = seen(run, monkeypatch, "mine:Two", *named)
    assert x == {"tokens": ((3, 5), torch.int64), "scale": (3, 5, 1)}


@pytest.mark.parametrize("name", ["x.npy", "x.pt"])
def test_inputs_from_a_file(run, monkeypatch, capsys, tmp_path, name):
    values = torch.arange(48.0).reshape(6, 8) / 48
    path = tmp_path / name
    np.save(path, values.numpy()) if name == "x.npy" else torch.save(values, path)
    _, (x,), _ = seen(run, monkeypatch, "mine:build", "--input", name)
    assert torch.equal(x, values)


def test_type_mode_and_level_are_handed_on(run, monkeypatch, capsys):
    options = ["--dtype", "float64", "--eval", "--level", "0.05", "--device", "cpu"]
    model, _, given = seen(run, monkeypatch, "mine:build", "--input", "4,8", *options)
    assert model[0].weight.dtype == torch.float64 and not model.training
    assert given == {"init": None, "level": 0.05, "seed": 0}


def test_init_comes_before_the_check_and_its_plan_is_what_is_judged_by(run, monkeypatch, capsys):
    arguments = "mine:tanh", "--input", "32,64"
    assert run(*arguments) == 1
    assert "UNHEALTHY  gradient vanishes" in capsys.readouterr().out
    assert run(*arguments, "--init", "critical") == 0
    assert capsys.readouterr().out.startswith("healthy")
    assert run(*arguments, "--init", "forward") == 1
    out, err = capsys.readouterr()
    assert "gradient explodes" in out and "as planned" in out
    assert err.startswith("sigprop check: --init forward: the squared gradient grows")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mine:build", "--input", "3,5"], "the model does not run on input (3, 5) float32 cpu"),
        (["mine:build", "--input", "3,x"], "'3,x' is no input; write [NAME=]SHAPE[:DTYPE]"),
        (["mine:build", "--input", "3,0"], "sizes of at least 1"),
        (["mine:build", "--input", "3,8:float23"], "there is no type 'float23'"),
        (["mine:build", "--input", "a-b=3,8"], "'a-b' is no name of an argument"),
        (["mine:build", "--input", "nowhere.npy"], "nowhere.npy"),
        (["mine:build", "--input", "3,8", "--dtype", "int8"], "--dtype is a floating-point type"),
        (["mine:build", "--input", "3,8", "--device", "cudaa"], "unknown device 'cudaa'"),
        (["mine:build", "--input", "3,8", "--seeds", "0"], "seeds must be >= 1"),
        (["mine:build", "--input", "3,8", "--level", "2"], "level must be"),
        (["mine:number", "--input", "3,8"], "mine:number gives int, no torch.nn.Module"),
        (["mine:buildd", "--input", "3,8"], "mine has no 'buildd'; it has build"),
        (["nowhere:build", "--input", "3,8"], "there is no module 'nowhere'"),
        (["mine:made_before", "--input", "3,8", "--seeds", "2"], "makes the same weights"),
        (["mine:always_the_same", "--input", "3,8", "--seeds", "2"], "makes the same weights"),
        (["mine:Two", "--input", "tokens=3,5:int64", "--input", "3,5:int64", "--input", "1",
          "--input", "2"], "input 3 has no name, and the model takes 2 by position: tokens, scale"),
        (["mine:Two", "--input", "3,5:int64", "--input", "tokens=3,5:int64"], "is given twice"),
    ],
)  # fmt: skip
def test_bad_usage_ends_with_2_and_says_why(run, capsys, arguments, words):
    assert run(*arguments, "--html", "page.html") == 2
    error = capsys.readouterr().err
    assert error.startswith("sigprop check: ") and words in error


def test_a_page_that_cannot_be_written_is_bad_usage(run, capsys, tmp_path):
    (tmp_path / "folder").mkdir()
    assert run("mine:build", "--input", "4,8", "--html", "folder") == 2
    assert "folder" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
