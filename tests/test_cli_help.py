"""Help texts and synopses: what they print runs as it is printed."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from sigprop import cli
from tests.test_cli_lost import COMMANDS, run


def helps(capsys):
    """The help text of every command by name."""
    found = {}
    for name in ("", *COMMANDS, "gain", "explain", "activations", "sweep"):
        with pytest.raises(SystemExit):
            run(f"{name} --help")
        found[name] = capsys.readouterr().out
    return found


def test_help_tells_defaults_where_there_are_any(capsys):
    texts = helps(capsys)
    assert set(re.findall(r"^    (\w+)", texts[""], flags=re.M)) | {""} >= set(texts)
    for text in texts.values():
        assert not re.search(r"default: *(None|False|True|\(|\[)", text)
        assert all(len(line) <= 100 for line in text.splitlines())
    assert "(default: 0.9 1 1.1)" in " ".join(texts["validate"].split())
    assert "(default: sigprop-regions)" in " ".join(texts["regions"].split())


PLACEHOLDERS = {
    "MODEL:FACTORY": "model.py:build",
    "[NAME=]SHAPE[:DTYPE]": "8,6",
    "(--plane | --line)": "--line",
    "--gain G": "--gain 1",
    "COMMAND": "activations",
    "[TARGET] [--AXIS V ...]": "chi --alpha 0 0.2 -0.5 --gain 1:2:3:log",
    "[options]": "",
}


def test_every_usage_line_is_read_as_printed(capsys):
    for name, text in helps(capsys).items():
        usage = text.split("\n\n")[0].removeprefix("usage: sigprop")
        for word, typed in PLACEHOLDERS.items():
            usage = usage.replace(word, typed)
        options = cli.parser().parse_args(shlex.split(usage))
        assert options.command == (name or "activations")


def test_every_example_runs_as_printed(tmp_path, capsys, monkeypatch, undrawn):
    """In one folder, one after the other, with the file that the help shows."""
    monkeypatch.chdir(tmp_path)
    examples = 0
    for text in helps(capsys).values():
        if code := re.search(r"\n  from torch.*?(?=\nrun)", text, flags=re.S):
            lines = code[0].strip("\n").splitlines()
            (tmp_path / "model.py").write_text("\n".join(line[2:] for line in lines))
        for line in re.findall(r"^  sigprop (.*)$", text, flags=re.M):
            assert run(line) == 0, line
            out, error = capsys.readouterr()
            assert out and "Traceback" not in error
            examples += 1
    assert examples >= 10


def test_the_module_is_the_command(capsys):
    for argv, code in ((["sigprop", "gain"], 0), (["sigprop", "gain", "--q", "0"], 2)):
        with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit) as exit_:
            patched.setattr(sys, "argv", argv)
            runpy.run_module("sigprop", run_name="__main__")
        assert exit_.value.code == code
    assert "forward gain" in capsys.readouterr().out


def synopses():
    """Lines of fenced blocks of text that tell what a command takes, joined and without remarks."""
    root = Path(cli.__file__).parents[2]
    found = []
    for page in (root / "README.md", *sorted(root.glob("docs/**/*.md"))):
        for block in re.findall(r"^```text\n(.*?)^```", page.read_text(), flags=re.M | re.S):
            joined = re.sub(r"\n +", " ", re.sub(r" +#.*", "", block))
            found += re.findall(r"^(?:sigprop|python -m analyses) .*", joined, flags=re.M)
    return found


VALUES = {
    "MODEL:FACTORY": "model.py:build", "FILE.npy": "a.npy", "FILE": "a", "[FILE]": "a", "DIR": "a",
    "N": "5", "NAME ...": "relu",
}  # fmt: skip


def typed(synopsis):
    """What a reader of a synopsis types: what must be there, then each option beside it."""
    needed, options, depth, start = "", [], 0, 0
    synopsis = re.sub(r"\[--\S+ \.\.\.\]", "", synopsis)  # the same once more
    for at, letter in enumerate(synopsis):
        begins = letter == "[" and re.match(r" \[(-|NAME )", synopsis[at - 1 :])
        if depth == 0 and not begins:
            needed += letter
            continue
        depth += {"[": 1, "]": -1}.get(letter, 0)
        start = at if begins and depth == 1 else start
        options += [synopsis[start + 1 : at]] if depth == 0 else []
    return [_with_values(f"{needed} {option}") for option in ("", *options)]


def _with_values(words):
    """The first of what may stand there, and something for each placeholder."""
    words = re.sub(r"(?<=[^\s|])(?:\|[^\s|]+)+", "", words)
    for word, value in VALUES.items():
        words = re.sub(rf"(?<!\S){re.escape(word)}(?!\S)", value, words)
    return words


def test_the_words_of_a_synopsis():
    line = "sigprop c MODEL:FACTORY --a|--b --input [X=]Y[:Z] [--input ...] [--n N] [--json [FILE]]"
    found = [shlex.split(words) for words in typed(line)]
    common = ["sigprop", "c", "model.py:build", "--a", "--input", "[X=]Y[:Z]"]
    assert found == [common, [*common, "--n", "5"], [*common, "--json", "a"]]


def test_every_synopsis_of_the_guide_is_read_as_printed():
    from analyses import _run

    lines = synopses()
    assert len(lines) >= 3
    for line in lines:
        for words in map(shlex.split, typed(line)):
            if words[0] == "sigprop":
                assert cli.parser().parse_args(words[1:]).command == words[1]
            else:
                _run._parser().parse_args(words[3:])
