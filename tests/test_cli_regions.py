"""``sigprop regions``: a user's model by name, counted, drawn, reported; errors shown plainly."""

import json
import random

import numpy as np
import pytest
import torch

from sigprop.cli import main
from sigprop.cli.factory import made
from sigprop.records import read_csv

MODELS = """
import random
import numpy as np
import torch
from torch import nn

import sigprop
from helper import WIDTH
from sigprop.regions import PiecewiseLinear


def mlp():
    net = sigprop.DeepMLP(64, [WIDTH, WIDTH, 10], alpha=0.2)
    return sigprop.kaiming_leaky_init(net, generator=torch.Generator().manual_seed(0))


def conv():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(2)
    return nn.Sequential(nn.Conv2d(1, 2, 3), norm, nn.ReLU(), nn.Dropout(), nn.Flatten())


def colours():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten())


def linear():
    return nn.Linear(64, 3)


def single():
    return nn.Sequential(nn.Linear(1, 4), nn.ReLU())


def arrays():
    return PiecewiseLinear([np.eye(2), np.ones((1, 2))], None, 0.5)


def drawn():
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 8), nn.ReLU())
    for bias, number in ((net[0].bias, random.random()), (net[2].bias, np.random.random())):
        nn.init.constant_(bias, number)
    return net


def phased():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), sigprop.nn.PhasedReLU(0.5, 0.2), nn.Linear(8, 1))


def smooth():
    return nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 1))


def broken():
    return {}["weights"]


def leaves():
    raise SystemExit(3)


def number():
    return 7


def needs(width):
    return width


ready = nn.Sequential(nn.Linear(64, 4), nn.ReLU())
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "models.py").write_text(MODELS, encoding="utf-8")
    (tmp_path / "helper.py").write_text("WIDTH = 12\n", encoding="utf-8")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "pack" / "inside.py").write_text("from models import mlp\n", encoding="utf-8")
    np.save(tmp_path / "points.npy", 3 * np.eye(3)[:2] - 1)
    (tmp_path / "bad.py").write_text("def f(:\n", encoding="utf-8")
    (tmp_path / "missing.py").write_text("import no_such_thing_at_all\n", encoding="utf-8")
    (tmp_path / "leaving.py").write_text("raise SystemExit(4)\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    modules = __import__("sys").modules
    before = set(modules)
    yield tmp_path
    for name in set(modules) - before:
        if name.partition(".")[0] in ("models", "helper", "pack", "neighbour"):
            del modules[name]


@pytest.fixture
def here(folder, undrawn):
    return folder


def run(*arguments) -> int:
    return main(["regions", *map(str, arguments), "--force"])


def found(capsys, *arguments) -> dict:
    assert run(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_a_plane_is_counted_drawn_and_written(folder, capsys):
    assert run("models.py:mlp", "--plane", "--out", "out") == 0
    out = capsys.readouterr().out
    assert "PiecewiseLinear(64-12-12-10, 24 kinked units), in the plane through three inputs" in out
    record = json.loads((folder / "out" / "regions.json").read_text())
    assert f"{record['activation_regions']} activation regions" in out
    assert record["activation_regions"] >= record["linear_regions"] > 10
    assert record["complete"] is True
    assert (folder / "out" / "regions.png").stat().st_size > 10_000
    edges = read_csv(folder / "out" / "regions.csv")
    assert set(edges[0]) == {"s0", "t0", "s1", "t1", "bends", "jumps"}
    assert all(-0.5 - 1e-9 <= edge["s0"] <= 1.5 + 1e-9 for edge in edges)


def test_a_line_is_that_of_the_library(here, capsys):
    from sigprop.data import load_inputs
    from sigprop.regions.slices import on_line

    record = found(capsys, "pack.inside:mlp", "--line", "--seed", 3)
    a, b = load_inputs("digits", 2, seed=3)
    known = on_line(made("models.py:mlp"), a, b)
    assert record["activation_regions"] == known.activation_regions
    assert record["linear_regions"] == known.linear_regions
    rows = read_csv(here / "sigprop-regions" / "regions.csv")
    assert [row["t"] for row in rows] == known.breakpoints.tolist()


def test_a_plane_is_that_of_the_library(here, capsys):
    from sigprop.data import load_inputs
    from sigprop.regions.slices import in_plane

    record = found(capsys, "models:mlp", "--plane", "--seed", 2, "--box", 0, 1, 0, 2)
    a, b, c = load_inputs("digits", 3, seed=2)
    known = in_plane(made("models.py:mlp"), a, b - a, c - a, [(0, 1), (0, 2)])
    assert record["activation_regions"] == known.activation_regions


def test_a_file_may_import_what_lies_beside_it(here, capsys):
    (here / "sub").mkdir()
    (here / "sub" / "neighbour.py").write_text("from models import arrays\n", encoding="utf-8")
    (here / "sub" / "net.py").write_text("from neighbour import arrays\n", encoding="utf-8")
    assert found(capsys, "sub/net.py:arrays", "--line", "--input", "gaussian")["kinks"] == 3


def test_bounds_and_expectation_are_those_of_the_slice(here, capsys):
    from sigprop.regions.bounds import bounds

    plane = found(capsys, "models:mlp", "--plane")
    assert plane["bounds"] == bounds(2, [12, 12], 0.2).records()
    line = found(capsys, "models:mlp", "--line")
    assert line["bounds"] == bounds(1, [12, 12], 0.2).records()
    assert 0.3 < line["activation_regions"] / line["expected_of_random_net"] < 3
    assert 0.3 < plane["activation_regions"] / plane["expected_of_random_net"] < 3
    assert run("models:mlp", "--line") == 0
    out = capsys.readouterr().out
    assert "expected of a random net" in out
    assert "no net of this shape has more than 169 there" in out


def test_other_nets_have_no_closed_form(here, capsys):
    record = found(capsys, "models:conv", "--plane", "--shape", 1, 8, 8)
    assert record["bounds"] is None
    assert record["expected_of_random_net"] is None
    assert record["kinks"] == 72


def test_images_of_one_channel_are_taken_as_digits(here, capsys):
    told, known = (found(capsys, "models:conv", "--plane", *s) for s in ((), ("--shape", 1, 8, 8)))
    assert told["input"] == known["input"] == "digits"
    assert told["activation_regions"] == known["activation_regions"] > 10
    assert found(capsys, "models:conv", "--line", "--shape", 1, 9, 9)["input"] == "gaussian"


def test_inputs_that_digits_do_not_fit_are_gaussian_and_it_says_so(here, capsys):
    assert run("models:arrays", "--plane") == 0
    written = capsys.readouterr()
    assert "(Gaussian inputs: the model takes inputs of size 2, the digits have 64;" in written.err
    assert "through three inputs (gaussian)" in written.out
    record = found(capsys, "models:arrays", "--plane")
    assert record == {
        **found(capsys, "models:arrays", "--plane", "--input", "gaussian"),
        "seconds": record["seconds"],
    }
    assert "Gaussian" not in capsys.readouterr().err  # the user's own choice needs no word
    assert found(capsys, "models:single", "--line")["kinks"] == 4


def test_arrays_models_and_jumps(here, capsys):
    record = found(capsys, "models:arrays", "--plane", "--input", "gaussian")
    assert record["network"] == "PiecewiseLinear(2-2-1, 3 kinked units)"
    assert found(capsys, "models:ready", "--line")["kinks"] == 4
    record = found(capsys, "models:phased", "--line", "--input", "gaussian", "--seed", 1)
    rows = read_csv(here / "sigprop-regions" / "regions.csv")
    assert any(row["jumps"] for row in rows)


def test_inputs_from_a_file(here, capsys):
    points = np.random.default_rng(0).standard_normal((4, 1, 8, 8))
    np.save("points.npy", points)
    record = found(capsys, "models:mlp", "--plane", "--input", "points.npy", "--box", 0, 1, 0, 1)
    assert record["input"] == "points.npy"


def test_a_count_that_is_stopped_says_so(here, capsys):
    assert run("models:mlp", "--plane", "--max-cells", 20) == 0
    assert " (partial: stopped by max_cells)\n" in capsys.readouterr().out
    record = found(capsys, "models:mlp", "--plane", "--max-cells", 20)
    assert record["complete"] is False
    assert record["activation_regions"] <= 20
    assert found(capsys, "models:mlp", "--plane")["max_cells"] == 100_000  # nothing runs for ever


def test_one_region_is_in_the_singular(here, capsys):
    assert run("models:linear", "--plane") == 0
    assert "\n1 activation region, 1 linear region\n" in capsys.readouterr().out


def test_the_seed_is_that_of_the_factory_too(here, capsys):
    def counts(*arguments):
        random.random(), np.random.random(), torch.rand(1)  # noqa: NPY002
        return {
            name: value
            for name, value in found(capsys, "models:drawn", "--line", *arguments).items()
            if name not in ("seconds", "seed")
        }

    zero, again, one = (counts("--input", "points.npy", "--seed", k) for k in (0, 0, 1))
    assert zero == again != one


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["models:broken"], "models:broken raises KeyError: 'weights' ("),
        (["models.py:broken"], "models.py, line"),
        (["models:leaves"], "models:leaves raises SystemExit: 3"),
        (["models:needs"], "missing 1 required positional argument: 'width'"),
        (["models:number"], "models:number gives no network: a network is a"),
        (["models:smooth"], "'1' (Tanh) is not piecewise linear"),
        (["models:colours"], "it is not that of the digits, 1 8 8; give it, as in --shape 3 32"),
        (["models:conv", "--input", "gaussian"], "give it, as in --shape"),
        (["models:single"], "takes one number; a plane needs two: give --line"),
        (["models:nothing"], "models has no 'nothing'; it has mlp, conv"),
        (["models"], "names no factory; write package.module:function or file.py:function"),
        (["nowhere:f"], "there is no module 'nowhere' here"),
        (["nowhere.py:f"], "there is no file 'nowhere.py'"),
        (["bad.py:f"], "bad.py:f raises SyntaxError"),
        (["leaving.py:f"], "leaving.py:f raises SystemExit: 4"),
        (["missing:f"], "missing:f raises ModuleNotFoundError: No module named 'no_such_thing"),
        (["models:arrays", "--input", "digits"], "digits has inputs of 64 numbers; the model"),
        (["models:mlp", "--box", 1, 0, 0, 1], "box is inverted"),
        (["models:mlp", "--max-cells", 0], "max_cells must be >= 1"),
        (["models:mlp", "--input", "nowhere.npy"], "there is no input file"),
        (["models:mlp", "--seed", -1], "seed must be >= 0; got -1"),
        (["models:mlp", "--seed", 2**63], "--seed must be < 2^63; got 9223372036854775808"),
    ],
)
def test_bad_usage_ends_with_2_and_says_why(here, capsys, arguments, words):
    assert run(*arguments, "--plane") == 2
    error = capsys.readouterr().err
    assert "sigprop regions: " in error
    assert words in error
    assert "Traceback" not in error
    assert not (here / "sigprop-regions").exists()


def test_the_path_is_left_as_it_was(here):
    import sys

    before = list(sys.path)
    made("models.py:mlp")
    made("pack.inside:mlp")
    with pytest.raises(ValueError, match="raises KeyError"):
        made("models:broken")
    assert sys.path == before


@pytest.mark.parametrize("arguments", [["models:mlp"], ["models:mlp", "--plane", "--line"]])
def test_one_place_is_asked_for(here, capsys, arguments):
    with pytest.raises(SystemExit) as exit_:
        run(*arguments)
    assert exit_.value.code == 2
    capsys.readouterr()
