"""A report in a terminal and in a notebook: what is said, in which order, in how much room."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from torch import nn

from sigprop.checking import Finding
from sigprop.checking.columns import Gap, shown
from sigprop.checking.text import WIDTH
from tests.checking.reports import ResNet, image, language, mlp, report_of, rows

BLOCKS = r"blocks\.\d+"


@pytest.fixture(scope="module")
def sound():
    return report_of(mlp(), rows(), law="Kaiming normal, fan_in")


@pytest.fixture(scope="module")
def deep():
    return report_of(ResNet(blocks=12, channels=4), image(2, 4), block=BLOCKS)


@pytest.fixture(scope="module")
def sick():
    return language(depth=3, dim=32, context=8)


def with_findings(report, *findings):
    return replace(report, findings=findings)


def test_a_sound_net_in_full(sound):
    lines = str(sound).split("\n")
    assert lines[0] == "healthy: nothing to report (Sequential, 5 weight layers)"
    assert lines[2].split() == ["signal", "q", "gradient"]
    assert re.split("  +", lines[3]) == [
        "layer", "operation", "predicted", "measured", "predicted", "measured", "law of weights",
        "gain",
    ]  # fmt: skip
    assert len(lines[4:9]) == len(sound.layers) and not lines[9]
    for line, layer in zip(lines[4:9], sound.layers, strict=True):
        cells = re.split("  +", line)
        assert cells[:2] == [layer.name, "Linear"]
        numbers = layer.q_predicted, layer.q, layer.gradient_predicted, layer.gradient
        assert cells[2:6] == [f"{value:.3g}" for value in numbers]
        assert cells[6:] == ["Kaiming normal, fan_in", f"{layer.gain:.3g}"]
    said = " ".join(lines[10:])
    assert said == (
        "All weights together: their size fits their laws (p = 0.43); they are independent of "
        "their inputs (p = 0.12); they are independent of their gradients (p = 0.77). Weights "
        "drawn at random give a p below 0.01 once in 100."
    )


def test_the_sentence_says_which_of_the_three_fails(sound):
    scale = str(replace(sound, p_scale=1e-9))
    assert "their size does not fit their laws (p = 1e-09)" in scale
    turned = str(replace(sound, p_direction=0.0099, p_backward=None))
    assert "they seem to depend on their inputs (p = 1e-02)" in turned and "gradients" not in turned
    void = replace(sound, p_scale=None, p_direction=None, p_backward=None)
    assert "The weights could not be tested" in str(void)


def test_the_worst_comes_first_with_its_remedy_once(sound):
    found = [
        Finding("0", "small", "it is small", "Leave it.", "note"),
        Finding("2", "loud", "9 times", "Make it smaller.", "warning"),
        *(Finding(str(i), "dead", f"unit {i}", "Set its bias.", "unhealthy") for i in range(7)),
    ]
    text = str(with_findings(sound, *found))
    head, _, rest = text.partition("\n")
    assert head == "unhealthy: 1 problem, 1 warning, 1 note (Sequential, 5 weight layers)"
    order = [rest.index(word) for word in ("UNHEALTHY  dead", "WARNING  loud", "NOTE  small")]
    assert order == sorted(order) and order[-1] < rest.index("law of weights")
    assert rest.count("What to do: Set its bias.") == 1
    assert "  0: unit 0\n" in rest and "  3: unit 3\n  and 3 more\n" in rest
    assert "unit 4" not in rest


def test_one_problem_of_two_levels_is_told_twice(sound):
    found = [
        Finding("0", "dead", "all", "Draw anew.", "unhealthy"),
        Finding("2", "dead", "half", "Watch it.", "warning"),
    ]
    text = str(with_findings(sound, *found))
    assert text.startswith("unhealthy: 1 problem, 1 warning")
    assert "UNHEALTHY  dead\n  0: all\n  What to do: Draw anew." in text
    assert "WARNING  dead\n  2: half\n  What to do: Watch it." in text


def test_what_to_do_is_said_once(sound):
    found = [Finding("0", problem, "all", "Draw anew.") for problem in ("dead", "loud", "odd")]
    text = str(with_findings(sound, *found, Finding("2", "wide", "a", "Cut it.")))
    assert text.count("What to do: Draw anew.") == 1
    assert text.count("What to do: as above.") == 2 and "What to do: Cut it." in text


def test_a_warning_alone_is_healthy(sound):
    warned = with_findings(sound, Finding("0", "loud", "a", "b", "warning"))
    assert str(warned).startswith("healthy: 1 warning (")


def test_below_a_layer_stands_what_is_found_there(sound):
    found = [
        Finding("2", "gain off its law", "its gain is 3 times that of its law", "Draw it anew."),
        Finding("2", "weights know their input", "p = 1e-04", "Draw it anew."),
        Finding("4", "weights know their input", "p = 1e-04", "Nothing.", "note"),
    ]
    lines = str(with_findings(sound, *found)).split("\n")
    (place,) = (i for i, line in enumerate(lines) if "^" in line)
    assert lines[place - 1].startswith("2 ")
    assert lines[place].strip() == "^ gain off its law; weights know their input"


def test_long_nets_show_repeated_blocks_once(deep):
    kept = shown(deep)
    names = [row.text if isinstance(row, Gap) else row.name for row in kept]
    assert names[:3] == ["stem", "blocks.0.conv1", "blocks.0.conv2"]
    assert names[3].startswith("... 10 more blocks like this: q ")
    assert names[4:] == ["blocks.11.conv1", "blocks.11.conv2", "head"]
    hidden = [layer.q for layer in deep.layers if re.match(r"blocks\.([1-9]|10)\.", layer.name)]
    assert f"q {min(hidden):.3g} to {max(hidden):.3g}" in names[3]
    assert "all 26 layers: report.records()" in str(deep)


def test_blocks_that_alternate_are_shown_once_too(sound):
    def layer(i):
        kind, block = ("attend", "mlp")[i // 2 % 2], f"h.{i // 4}.add{i // 2 % 2}"
        shape = (8 + i % 4, 8)
        return replace(sound.layers[0], name=f"h.{i // 4}.{kind}{i % 2}", block=block, shape=shape)

    stem, head = (replace(sound.layers[0], name=n, shape=(3, 3)) for n in ("stem", "head"))
    report = replace(sound, layers=(stem, *map(layer, range(40)), head))
    assert [row.text[:28] if isinstance(row, Gap) else row.name for row in shown(report)] == [
        "stem", "h.0.attend0", "h.0.attend1", "h.0.mlp0", "h.0.mlp1",
        "... 8 more blocks like this:",
        "h.9.attend0", "h.9.attend1", "h.9.mlp0", "h.9.mlp1", "head",
    ]  # fmt: skip


def test_a_block_with_a_finding_is_not_hidden(deep):
    found = with_findings(deep, Finding("blocks.5.conv2", "dead", "all", "b", "warning"))
    names = [getattr(row, "name", "") for row in shown(found)]
    assert {"blocks.5.conv1", "blocks.5.conv2"} <= {*names}
    assert "  ^ dead\n" in str(found)
    everywhere = [Finding(f"blocks.{i}.conv2", "dead", "a", "b") for i in range(12)]
    assert shown(with_findings(deep, *everywhere))[3].text.startswith("... 10 more blocks")


def test_a_long_net_without_repetition_is_cut_in_the_middle(sound):
    layers = [replace(sound.layers[0], name=f"fc{i}", shape=(i, i)) for i in range(1000)]
    many = replace(sound, layers=tuple(layers))
    kept = shown(many)
    assert len(kept) == 25 and kept[12].text == "... 976 more layers"
    assert kept[11].name == "fc11" and kept[13].name == "fc988"


def test_no_line_is_too_long(sick, deep, sound):
    names = "a_very_long_name_of_a_module." * 4
    layers = [
        replace(layer, name=f"{names}{i}", operation="scaled_dot_product", law="x" * 40, gain=1e-22,
                q=1.234e-31, gradient=9.87e-123, q_predicted=1e-300, gradient_predicted=1.23e200)
        for i, layer in enumerate(sound.layers)
    ]  # fmt: skip
    long = replace(sound, layers=tuple(layers), findings=sick.findings)
    for report in (sick, deep, long):
        assert max(map(len, str(report).split("\n"))) <= WIDTH
    shown_names = [line.split("  ")[0] for line in str(long).split("\n") if line.startswith("a_ve")]
    assert len({*shown_names}) == 5 and all("..." in name for name in shown_names)


def test_what_is_zero_not_finite_or_missing_is_told_apart(sound):
    first = replace(sound.layers[0], q=math.nan, q_predicted=math.inf, gradient=None)
    first = replace(first, gradient_predicted=0.0)
    line = str(replace(sound, layers=(first,))).split("\n")[4]
    assert re.split("  +", line)[2:6] == ["inf", "nan", "0", "-"]


def test_a_model_without_weights_has_no_table():
    report = report_of(nn.Sequential(nn.ReLU()), rows())
    assert str(report).startswith("healthy: nothing to report (Sequential, 0 weight layers)")
    assert "law of weights" not in str(report) and "<table" not in report._repr_html_()
    assert report.profile() == []


# In notebooks


class Balanced(HTMLParser):
    """Tags that were opened are closed in order, and names what is never meant to run."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(html):
    page = Balanced()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


EVIL = '<script>alert("1")</script>&"\'<b>'


def evil(report):
    """A report each text of which would run as a script if it were not escaped."""
    layers = [replace(layer, name=EVIL + layer.name, operation=EVIL, law=EVIL, block="", note=EVIL)
              for layer in report.layers]  # fmt: skip
    finding = Finding(f"{EVIL}0", EVIL, EVIL, EVIL, "unhealthy")
    return replace(report, layers=tuple(layers), findings=(finding,), model=EVIL)


def test_a_notebook_shows_findings_and_a_small_table(sick):
    html = sick._repr_html_()
    page = parsed(html)
    assert not {"script", "style", "link"} & {tag for tag, _ in page.tags}
    text = " ".join(page.text)
    order = [text.index(words) for words in ("units are dead", "weights off their law", "law of w")]
    assert order == sorted(order)
    assert "Set its bias to 0." in text and "↑ units are dead" in text
    rows_shown = sum(tag == "tr" for tag, _ in page.tags) - 2
    assert rows_shown < 2 + len(sick.layers) + 3


def test_every_text_is_escaped_in_a_notebook(sound):
    page = parsed(evil(sound)._repr_html_())
    assert not {"script"} & {tag for tag, _ in page.tags}
    assert sum(EVIL in text for text in page.text) >= 4 + 3 * 5


# The profile


def test_the_profile_has_layers_and_the_stream_in_order(deep):
    profile = deep.profile()
    assert [row["name"] for row in profile[:4]] == [
        "stem", "blocks.0.conv1", "blocks.0.conv2", "blocks.0.add",
    ]  # fmt: skip
    assert [row["kind"] for row in profile].count("stream") == 12
    joined = next(row for row in profile if row["name"] == "blocks.3.add")
    assert joined["q"] == deep.measured["blocks.3.add"].q
    assert joined["q_predicted"] == deep.prediction["blocks.3.add"].q
    assert joined["gradient"] == deep.measured["blocks.3.add"].gradient
    labels = [row["label"] for row in profile if row["label"]]
    assert labels == ["stem", *(f"blocks.{i}" for i in range(12)), "head"]


def test_the_profile_names_what_findings_name_and_no_notes(sick):
    found = {row["name"]: row["found"] for row in sick.profile() if row["found"]}
    assert found == {
        "transformer.h.1.c_fc.matmul": "units are dead",
        "transformer.h.2.c_fc.matmul": "weights off their law",
    }


def test_a_finding_is_at_the_place_that_it_is_about(deep):
    def found(name):
        report = with_findings(deep, Finding(name, "dead", "a", "b", "warning"))
        return [row["name"] for row in report.profile() if row["found"]]

    assert found("blocks.1.conv1") == ["blocks.1.conv1"]
    assert found("blocks.1.add") == ["blocks.1.add"]
    assert found("blocks.1.conv1.weight") == ["blocks.1.conv1"]  # the parameter it uses
    (relu,) = (n.name for n in deep.measured.graph.nodes
               if n.inputs == ("blocks.1.conv1",) and n.kind == "activation")  # fmt: skip
    assert found(relu) == ["blocks.1.conv1"]  # what makes the signal of this activation
    assert found("blocks.1") == found("blocks") == found("no such place") == found("") == []
