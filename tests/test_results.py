"""How results look: every public one, found by walking the package, in print and in a notebook.

A new result class is met here by itself: it must have an example, and the example must be shown.
"""

import dataclasses
import importlib
import inspect
import re
import sys
from functools import cache
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

import sigprop
from sigprop.measurement import measure_nodes, steps_of_net
from sigprop.results import MOST_ROWS, Result, Shown
from sigprop.theory import solve_critical
from tests.test_walls import ROOMS

DESCRIBES = {
    "Activation", "Limits", "Thresholds", "DataLoss", "Loss", "Graph", "Moments", "Node", "Weight",
    "Block", "Stream", "Conversion", "Reading", "UsedWeight",
}  # fmt: skip
"""Public dataclasses that are no answers: what is asked with, and descriptions of models."""


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.PReLU(), nn.Linear(8, 7), nn.PReLU(), nn.Linear(7, 3))


@cache
def examples() -> dict[str, Result]:
    """Answers of every kind, by what was asked."""
    net, x = model(), torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in ((6, 2), (5, 6), (1, 5))]
    cut = sigprop.regions.PiecewiseLinear(arrays)
    solid = sigprop.regions.PiecewiseLinear([np.eye(3), np.ones((1, 3))])
    bent = sigprop.regions.PiecewiseLinear([[[1.0, -1.0]], [[2.0]]], alpha=[0.1, 1.0])
    seen = sigprop.measure(net, x, backward=True)
    predicted, checked = sigprop.predict(net, x), sigprop.check(net, x)
    watched = sigprop.monitor(net, every=1, warn=False)
    new = repr(watched)
    assert "no step has been reported" in new
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    validated = sigprop.validate(0.1, 3, 16, seeds=2)
    tanh = sigprop.MeanField("tanh", 1.5, 0.1)
    mlp = sigprop.DeepMLP(4, 8, 3, bias=False)
    along = sigprop.kinks.along(
        cut, "mse", {"weights.0": arrays[0]}, inputs=[[1.0, 0.5]], targets=[[1.0]], gradients=True
    )
    box = [(-1, 1), (-1, 1)]
    bounds = sigprop.regions.bounds(2, [3, 2])
    plan = sigprop.init.plan(net)
    started = sigprop.init_slopes(model(), x)
    nodes = measure_nodes(net, x)
    sick = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(5, 5), nn.ReLU())))
    for parameter in sick.parameters():
        nn.init.constant_(parameter, -1.0)
    return {
        "measure": seen,
        "a layer of measure": seen[0],
        "measure_nodes": nodes,
        "a node of measure_nodes": nodes.nodes[0],
        "steps_of_net": steps_of_net(mlp, torch.ones(2, 4), torch.ones(2, 8)),
        "predict": predicted,
        "a node of predict": predicted[1],
        "check": checked,
        "a layer of check": checked.layers[0],
        "check of a dead net": (dead := sigprop.check(sick, x)),
        "a finding": dead.findings[0],
        "plan": plan,
        "a layer of a plan": plan.layers[0],
        "left alone": plan.untouched[0],
        "init_slopes": started,
        "a module of init_slopes": started.modules[0],
        "monitor": watched,
        "a row of monitor": sigprop.monitoring.LayerReport(**watched.records()[0]),
        "validate": validated,
        "a curve of validate": validated.q,
        "a verdict": validated.verdict,
        "a family": validated.verdict.families[0],
        "fixed_point": tanh.fixed_point(),
        "fixed points of a grid": sigprop.MeanField("tanh", [1.0, 1.5], 0.1).fixed_point(),
        "depth_scales": tanh.depth_scales(),
        "phase": tanh.phase(),
        "trajectory of tanh": tanh.trajectory(30, c0=0.5),
        "trajectory": sigprop.trajectory(30, 1.3, 0.2),
        "solve_critical": solve_critical("tanh", bias_std=0.1),
        "edge_of_chaos": sigprop.edge_of_chaos("tanh", bias_std=[0.1, 0.2]),
        "explain_gain": sigprop.explain_gain("tanh", 1.5),
        "finite_width_law": sigprop.finite_width_law([9, 8], 1.3, 0.2),
        "on_line": sigprop.regions.on_line(cut, [-1, -1], [1, 1]),
        "in_plane": sigprop.regions.in_plane(cut, [0, 0], [1, 0], [0, 1], box),
        "in_box": sigprop.regions.in_box(cut, box),
        "in_box of three inputs": sigprop.regions.in_box(solid, [*box, (-1, 1)]),
        "bounds": bounds,
        "a bound": next(iter(bounds.values())),
        "expected_on_line": sigprop.regions.expected_on_line(2, [8], distance=1.0, bias_std=1.0),
        "expected_in_plane": sigprop.regions.expected_in_plane(5, [8, 8]),
        "jump": sigprop.kinks.jump(0.1, [3.0, 4.0]),
        "jumps": sigprop.kinks.jumps(bent, "mse", 1, 0, inputs=[[3.0, 3.0]], targets=[1.0]),
        "subgradient": sigprop.kinks.subgradient(0.1),
        "along": along,
        "variation": along.variation,
        "sweep.run": sigprop.sweep.run(
            sigprop.chi,
            sigprop.sweep.grid(gain=[1, 1.4], alpha=[0, 0.2]),
            workers=0,
            progress=False,
        ),
    }


def offered() -> dict[str, type]:
    """Every public class of the rooms, and every class that a public function says it returns."""
    rooms = [importlib.import_module(f"sigprop.{room}") for room in (*ROOMS, "prediction")]
    public = [getattr(home, name) for home in (sigprop, *rooms) for name in home.__all__]
    words = {thing.__name__ for thing in public if inspect.isclass(thing)}
    for thing in filter(inspect.isfunction, public):
        words |= set(re.findall(r"\w+", str(thing.__annotations__.get("return"))))
    homes = [home for name, home in [*sys.modules.items()] if name.startswith("sigprop.")]
    found = {name: thing for home in homes for name, thing in vars(home).items() if name in words}
    return {
        name: thing
        for name, thing in found.items()
        if inspect.isclass(thing) and thing.__module__.startswith("sigprop.")
    }


def test_every_public_answer_is_a_result():
    answers = {name for name, c in offered().items() if dataclasses.is_dataclass(c)}
    strays = {name for name in answers - DESCRIBES if not issubclass(offered()[name], Result)}
    assert strays == set()
    assert {name for name in answers if not issubclass(offered()[name], Result)} == DESCRIBES


def kinds(top: type = Result) -> set[type]:
    return {sub for c in top.__subclasses__() for sub in (c, *kinds(c))}


def test_every_kind_of_result_has_an_example_here():
    offered()  # the rooms are imported
    classes = {c for c in kinds() if c.__module__.startswith("sigprop.")}
    shown = {type(result) for result in examples().values()}
    assert {c.__name__ for c in classes - shown} == {"Regions"}, "abstract: its kinds are here"


def test_repr_is_what_print_shows():
    for asked, result in examples().items():
        assert repr(result) == str(result) == f"{result}" != "", asked
        assert "np." not in repr(result) and " object at 0x" not in repr(result), asked


class Page(HTMLParser):
    """What a notebook would show: tags must close, cells and pictures are counted."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag != "img":
            self.open.append(tag)
        assert tag not in ("script", "style", "link")
        if tag == "img":
            assert dict(attrs)["src"].startswith("data:image/png;base64,")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


DRAWN = {
    "predict", "check", "check of a dead net", "monitor", "validate", "on_line", "in_plane",
    "in_box", "along",
}  # fmt: skip


def test_a_notebook_shows_a_small_table_and_the_picture_once():
    before = plt.get_fignums()
    for asked, result in examples().items():
        html = result._repr_html_()
        page = Page(html)
        assert page.seen.count("table") == 1 and page.seen.count("tr") <= MOST_ROWS + 8, asked
        assert page.seen.count("img") == (asked in DRAWN), asked
        assert "np." not in page.text and len(html) < 200_000, asked
    assert plt.get_fignums() == before, "an open figure is shown a second time"


def numbers(value: object) -> list[object]:
    """What numpy made among values that are not arrays."""
    if isinstance(value, dict):
        return [found for entry in value.values() for found in numbers(entry)]
    if isinstance(value, list | tuple):
        return [found for entry in value for found in numbers(entry)]
    return [value] if isinstance(value, np.generic) else []


def test_numbers_are_pythons_own():
    for asked, result in examples().items():
        if dataclasses.is_dataclass(result):
            for field in dataclasses.fields(result):
                assert numbers(getattr(result, field.name)) == [], (asked, field.name)
        rows = result.records() if hasattr(result, "records") else []
        assert numbers(rows) == [], asked
        for name, kind in inspect.getmembers(type(result), inspect.isdatadescriptor):
            if not name.startswith("_") and _says_number(kind):
                assert numbers([getattr(result, name)]) == [], (asked, name)


def _says_number(kind: object) -> bool:
    """Whether a property says that it returns a plain number."""
    wanted = getattr(kind, "fget", None) or getattr(kind, "func", None)
    return getattr(wanted, "__annotations__", {}).get("return") in ("float", "int", "bool", "Any")


@dataclasses.dataclass(frozen=True)
class Odd(Result):
    """A result that forgot everything: numpy's numbers, markup in its words."""

    number: float
    name: str
    many: np.ndarray
    nested: tuple = ()


def test_what_a_class_forgets_is_done_for_it():
    odd = Odd(np.float64(0.5), "<b>", np.arange(9.0), (1, 2.0))
    assert type(odd.number) is float
    assert repr(odd) == "Odd(number=0.5, name='<b>', many=array of shape (9,), nested=(1, 2))"
    page = Page(odd._repr_html_())
    assert "b" not in page.seen and "'<b>'" in page.text and "Odd" in page.text


@dataclasses.dataclass(frozen=True)
class Long(Result):
    """A result of many rows."""

    rows: int

    def records(self):
        return [{"layer": layer, "q": np.float64(1 / (layer + 1))} for layer in range(self.rows)]


@pytest.mark.parametrize("rows", [1, MOST_ROWS, MOST_ROWS + 1, 1000])
def test_long_tables_are_cut_in_the_middle_and_say_so(rows):
    text, page = repr(Long(rows)).split("\n"), Page(Long(rows)._repr_html_())
    left = max(rows - MOST_ROWS, 0)
    assert len(text) == 1 + min(rows, MOST_ROWS) + (left > 0)
    assert page.seen.count("tr") == len(text)
    assert text[-1].split()[0] == str(rows - 1) and text[1].split()[0] == "0"
    if left:
        assert (
            f"{left:,} more rows" in text[1 + MOST_ROWS // 2] and f"{left:,} more rows" in page.text
        )
        assert text[MOST_ROWS // 2].split()[0] == str(MOST_ROWS // 2 - 1)


def test_words_stand_left_and_numbers_right_also_where_one_is_missing():
    shown = Shown(
        ["a < b"],
        [{"name": "x", "q": None}, {"name": "y", "q": 1.23456789}],
        {"name": "", "q": ".3g"},
    )
    html = "".join(shown.as_html())
    assert "a &lt; b" in html and ">1.23<" in html and ">-<" in html
    assert html.count("text-align: left") == 3 and html.count("text-align: right") == 3


def test_pictures_that_would_take_long_stay_away(monkeypatch):
    monkeypatch.setattr("sigprop.arrangement.results.DRAWN", 1)
    assert "img" not in Page(examples()["in_plane"]._repr_html_()).seen
