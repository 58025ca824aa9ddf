"""The command line as a user meets it: exit codes, files, messages."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.text import Text

import sigprop
from sigprop import cli, plots, validate, validate_many
from sigprop.data import load_inputs
from sigprop.init.request import slopes_request
from sigprop.records import read_csv, read_json
from sigprop.theory import MeanField
from sigprop.validation.grid import cell_level

SMALL = ["--depth", "6", "--width", "48", "--seeds", "2", "--batch", "4", "--device", "cpu"]


def run(*arguments):
    return cli.main([*map(str, arguments)])


def test_validate_writes_table_figure_and_numbers(tmp_path, capsys):
    assert run("validate", *SMALL, "--out", tmp_path) == 0
    out = capsys.readouterr().out
    assert "theory holds: p = " in out
    assert "12 kinds of net" in out
    assert (tmp_path / "validate.png").stat().st_size > 10_000
    rows = read_csv(tmp_path / "validate.csv")
    assert len(rows) == 12 * 7
    verdict = read_json(tmp_path / "validate.json")
    assert verdict["holds"] is True
    assert verdict["input"] == "digits"
    assert len(verdict["cells"]) == 12


def test_validate_with_biases_and_other_activations(tmp_path, capsys, undrawn):
    arguments = ["--activation", "tanh", "gelu", "--gain", 1, "--bias-std", 0.2, "--out", tmp_path]
    assert run("validate", *SMALL, *arguments) == 0
    out = capsys.readouterr().out
    assert "tanh" in out
    assert "over all 2 kinds of net" in out
    assert run("validate", *SMALL, "--activation", "gelo", "--out", tmp_path / "other") == 2
    assert "Did you mean 'gelu'" in capsys.readouterr().err


def test_validate_ends_with_1_when_the_theory_is_rejected(tmp_path, capsys, undrawn, monkeypatch):
    def wrong(alpha, gain, *rest):
        return slopes_request(alpha, 1.2 * gain, *rest)

    monkeypatch.setattr("sigprop.validation.inits.slopes_request", wrong)
    code = run("validate", *SMALL, "--alpha", 0.2, "--gain", 1, "--out", tmp_path, "--json")
    assert code == 1
    assert json.loads(capsys.readouterr().out)["holds"] is False
    assert run("validate", *SMALL, "--alpha", 0.2, "--gain", 1, "--out", tmp_path, "--force") == 1
    assert "forward weights drift over all layers" in capsys.readouterr().out


def test_each_kind_of_net_has_seeds_of_its_own(tmp_path, capsys, undrawn):
    arguments = ["--alpha", 0.2, 0.5, "--gain", 0.9, 1, "--seed", 3, "--out", tmp_path, "--json"]
    assert run("validate", *SMALL, *arguments) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    x, options = load_inputs("digits", 4, seed=3), {"device": "cpu", "seeds": 2}
    for index, (alpha, ratio) in enumerate([(0.2, 0.9), (0.2, 1), (0.5, 0.9), (0.5, 1)]):
        gain = ratio * (2 / (1 + alpha**2)) ** 0.5
        known = validate(alpha, 6, 48, gain=gain, x=x, seed=3 * 4 + index, **options)
        for name in ("log10_q_measured", "log10_grad_measured", "p_value"):
            assert cells[index][name] == pytest.approx(known.summary()[name], rel=1e-4)


def test_alpha_is_a_parameter_of_the_activations_that_have_one(tmp_path, capsys, undrawn):
    arguments = ["--activation", "elu", "prelu", "--alpha", 0.5, 1, "--gain", 1, "--out", tmp_path]
    assert run("validate", *SMALL, *arguments) == 0
    assert "over all 4 kinds of net" in capsys.readouterr().out
    cells = read_json(tmp_path / "validate.json")["cells"]
    known = [("elu", 0.5), ("elu", 1), ("prelu", 0.5), ("prelu", 1)]
    assert [(cell["activation"], cell["alpha"]) for cell in cells] == known


@pytest.mark.parametrize(("worst", "code"), [(0.004, 0), (0.0008, 1)])
def test_validate_never_rejects_a_cell_of_a_grid_that_holds(
    tmp_path, capsys, monkeypatch, undrawn, worst, code
):
    """p = .004 in one of 12 kinds of net is below .01, but not unusual; .0008 is."""
    pictures = []
    monkeypatch.setattr("sigprop.validation.validate_many", grid_with(worst))
    monkeypatch.setattr("sigprop.plots.grid", keeping(pictures, plots.grid))
    assert run("validate", *SMALL, "--out", tmp_path) == code
    out = capsys.readouterr().out
    assert ("REJECTED" in out) == bool(code)
    assert "rejected below 0.01; one kind alone below 0.00084" in out
    verdict = read_json(tmp_path / "validate.json")
    assert verdict["holds"] == (not code)
    assert [cell["holds"] for cell in verdict["cells"]].count(False) == code
    assert verdict["cell_level"] == cell_level(0.01, 12)
    (figure,) = pictures
    assert figure.get_suptitle().startswith(f"The theory holds in {12 - code} of 12 kinds")
    words = [t.get_text() for ax in figure.axes for t in (ax.get_legend() or ax).findobj(Text)]
    assert any("REJECTED" in text for text in words) == bool(code)


def test_a_grid_that_is_ended_is_judged_by_all_that_was_asked_for(
    tmp_path, capsys, undrawn, monkeypatch
):
    """p = .0009 in one of 12 kinds of net holds; as one of the 4 that are finished it would not."""
    monkeypatch.setattr("sigprop.validation.validate_many", grid_with(0.0009, ended_after=4))
    assert run("validate", *SMALL, "--out", tmp_path) == 130
    out, verdict = capsys.readouterr().out, read_json(tmp_path / "validate.partial.json")
    assert "theory holds: p = 0.0107 over all 4 kinds of net" in out and "REJECTED" not in out
    assert verdict["holds"] and verdict["p_value"] >= verdict["level"]


def grid_with(worst, ended_after=12):
    """A ``validate_many`` that finds p = .4, and ``worst`` in the fourth kind of net."""
    (result,) = validate_many([{"alpha": 0.2, "depth": 2, "width": 8, "seeds": 1, "batch": 2}])

    def given(cases, finished, **rest):
        for index, case in enumerate(cases[:ended_after]):
            p_value = worst if index == 3 else 0.4
            verdict = replace(result.verdict, p_value=p_value, level=case["level"])
            kind = {key: case[key] for key in ("activation", "alpha", "gain")}
            finished(index, replace(result, verdict=verdict, **kind))
        if ended_after < len(cases):
            raise KeyboardInterrupt

    return given


def keeping(found, draw):
    """The same function, what it returns kept."""

    def kept(*arguments):
        found.append(draw(*arguments))
        return found[-1]

    return kept


def test_validate_tests_the_law_of_the_weights_when_asked(tmp_path, capsys, undrawn):
    arguments = ["--alpha", 0.2, "--gain", 1, "--out", tmp_path]
    assert run("validate", *SMALL, *arguments) == 0
    assert "measured only: the law of the weights beyond" in capsys.readouterr().out
    assert run("validate", *SMALL, *arguments, "--distribution", "normal", "--json", "--force") == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert cell["tested"].endswith(
        "row norms, fourth moment, row directions, shared weights, order"
    )


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_validate_on_the_users_own_file(tmp_path, capsys, undrawn, suffix):
    path = tmp_path / f"x{suffix}"
    x = np.random.default_rng(0).standard_normal((9, 5, 4))
    np.save(path, x) if suffix == ".npy" else torch.save(torch.as_tensor(x), path)
    arguments = ["--alpha", 0.2, "--gain", 1, "--input", path, "--out", tmp_path]
    assert run("validate", *SMALL, *arguments) == 0
    assert read_csv(tmp_path / "validate.csv")[0]["width"] == 20


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--depth", "0"], "depth must be >= 1; got 0"),
        (["--width", "0"], "width must be >= 1; got 0"),
        (["--gain", "-1"], "--gain must be > 0; got -1."),
        (["--gain", "1", "nan"], "--gain contains NaN"),
        (["--activation", "tanh", "--alpha", "0.2"], "'tanh' has no parameter 'alpha'"),
        (["--activation", "relu", "--alpha", "0.2"], "'relu' has slope 0; got alpha=0.2"),
        (["--alpha", "nan"], "alpha contains NaN"),
        (["--device", "cudaa"], "unknown device 'cudaa'"),
        (["--input", "nowhere.npy"], "there is no input file 'nowhere.npy'"),
        (["--input", "digit"], "unknown input"),
        (["--batch", "1000"], "has 1000 inputs"),
        (["--seeds", "0"], "seeds must be >= 1"),
        (["--level", "2"], "level must be"),
        (["--seed", "-1"], "seed must be >= 0; got -1"),
    ],
)
def test_bad_usage_ends_with_2_and_says_why(tmp_path, capsys, arguments, words):
    assert run("validate", *SMALL, "--input", "gaussian", "--out", tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert "sigprop validate: " in error
    assert words in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["nonsense"], ["validate", "--depth", "ten"], []])
def test_what_argparse_refuses_ends_with_2_too(capsys, arguments):
    with pytest.raises(SystemExit) as exit_:
        run(*arguments)
    assert exit_.value.code == 2
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["validate", "--Depth", "3"], "unrecognized arguments: --Depth 3. Did you mean '--depth'"),
        (["gain", "relu", "--negative_slope=1"], "Did you mean '--negative-slope'"),
        (["gain", "relu", "gelu"], "sigprop gain: error: unrecognized arguments: gelu.\n"),
    ],
)
def test_what_a_command_does_not_take_is_met_with_its_own_options(capsys, arguments, words):
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    error = capsys.readouterr().err
    assert words in error and error.startswith(f"usage: sigprop {arguments[0]} ")


def test_gain(capsys):
    assert run("gain", "--activation", "leaky_relu", "--alpha", "0.2", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["critical_gain"] == pytest.approx(1.3867504905630728, rel=1e-14)
    assert row["forward_gain"] == pytest.approx(1.3867504905630728, rel=1e-14)
    assert run("gain", "--activation", "relu", "--width", "64") == 0
    out = capsys.readouterr().out
    assert "1.414213562" in out
    assert "1.71285855 " in out
    assert "no drift of log q in one net of width 64" in out
    assert run("gain", "--activation", "mish", "--bias-std", "0.1") == 0
    assert "unstable" in capsys.readouterr().out
    assert run("gain", "--activation", "softplus") == 0
    assert "none" in capsys.readouterr().out


def test_the_gains_are_those_at_the_given_level(capsys):
    assert run("gain", "tanh", "--q", "4", "--bias-std", "0.5", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    for kind in ("forward", "unit_variance"):
        wanted = sigprop.gain("tanh", kind=kind, q=4.0, bias_std=0.5)
        assert row[f"{kind}_gain"] == pytest.approx(wanted, rel=1e-12)
        assert wanted != pytest.approx(sigprop.gain("tanh", kind=kind, bias_std=0.5), rel=0.1)


def test_the_activation_may_stand_without_a_word_before_it(capsys):
    for theirs, ours in (
        ("gain gelu", "gain --activation gelu"),
        ("gain leaky_relu --negative-slope 0.1", "gain --alpha 0.1"),
        ("explain tanh --gain 1.2", "explain --gain 1.2 --activation tanh"),
    ):
        printed = [(run(*line.split()), capsys.readouterr().out) for line in (theirs, ours)]
        assert printed[0] == printed[1] and printed[0][0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gain", "--activation", "leaky"], "Did you mean 'leaky_relu'?"),
        (["gain", "--activation", "tanh", "--width", "8"], "--width is for the leaky family"),
        (["gain", "--activation", "tanh", "--alpha", "1"], "has no parameter 'alpha'"),
        (["gain", "--bias-std", "-1"], "bias_std must be >= 0"),
        (["gain", "--q", "0"], "q must be >= 1e-300"),
        (["explain", "--gain", "0"], "gain must be > 0"),
        (["phase", "--activation", "tanh", "--bias-max", "0"], "--bias-max must be > 0"),
    ],
)
def test_bad_usage_of_the_theory_commands(capsys, arguments, words):
    assert run(*arguments) == 2
    assert words in capsys.readouterr().err


def test_explain(capsys):
    assert run("explain", "--activation", "tanh", "--gain", "1.6666666667") == 0
    assert "q settles at 1.17848" in capsys.readouterr().out
    assert run("explain", "--activation", "tanh", "--gain", "1.6666666667", "--json") == 0
    assert json.loads(capsys.readouterr().out)["phase"] == "chaotic"


def test_phase(tmp_path, capsys):
    assert run("phase", "--activation", "tanh", "--out", tmp_path, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["gain"] == 1.0
    assert all(row["stable"] for row in rows)
    assert (tmp_path / "phase-tanh.png").stat().st_size > 10_000
    assert read_csv(tmp_path / "phase-tanh.csv") == rows


def test_the_axes_of_a_phase_diagram(tmp_path, capsys, undrawn, monkeypatch):
    drawn = {}

    def phase_diagram(gains, biases, chi, edge, *, name, ax):
        drawn.update(gains=gains, biases=biases, chi=chi, edge=edge)

    monkeypatch.setattr("sigprop.plots.phase_diagram", phase_diagram)
    arguments = ["--activation", "tanh", "--bias-max", 0.4, "--out", tmp_path]
    assert run("phase", *arguments, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["bias_std"] for row in rows] == np.linspace(0, 0.4, 51).tolist()
    assert drawn["edge"] == rows
    gains, biases, chi = drawn["gains"], drawn["biases"], drawn["chi"]
    assert biases[[0, -1]].tolist() == [0, 0.4]
    assert gains[-1] == pytest.approx(2 * rows[-1]["gain"])
    assert run("phase", *arguments, "--force") == 0
    printed = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in printed[:11]] == [f"{0.04 * i:.2f}" for i in range(11)]
    for row, column in ((0, 99), (99, 0), (70, 30)):
        net = MeanField("tanh", gain=gains[column], bias_std=biases[row])
        assert chi[row, column] == pytest.approx(net.chi(), rel=1e-9)


def test_activations(capsys):
    assert run("activations", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["gelu"]["forward"] == pytest.approx(1.533530441195535, rel=1e-12)
    assert rows["softplus"]["critical"] is None
    assert run("activations") == 0
    assert "torch.nn.GELU" in capsys.readouterr().out


def test_digits_without_scikit_learn(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    assert run("validate", *SMALL, "--out", tmp_path) == 2
    assert "pip install 'sigprop[digits]'" in capsys.readouterr().err
