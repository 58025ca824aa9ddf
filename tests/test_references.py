"""The bibliography and what cites it: every key is known, used, and gives a sound BibTeX entry."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import sigprop
from analyses import _run
from sigprop.activations import ACTIVATIONS, activation
from sigprop.references import REFERENCES, bibtex, cited
from tests.test_walls import PACKAGE

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
KEY = re.compile(r"\b[a-z]{2,}(?:18|19|20)\d\d\b")


def sources() -> list[Path]:
    return [*PACKAGE.rglob("*.py"), *Path(_run.__file__).parent.rglob("*.py")]


@cache
def docstrings() -> dict[str, str]:
    """Where it stands → every docstring of the package and of the analyses."""
    found = {}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
                found[f"{path.name}:{getattr(node, 'name', '')}"] = text
    return found


def test_every_key_in_a_docstring_is_in_the_bibliography():
    unknown = {
        where: sorted(set(KEY.findall(text)) - set(REFERENCES))
        for where, text in docstrings().items()
    }
    assert {where: keys for where, keys in unknown.items() if keys} == {}


def test_every_work_is_cited_somewhere():
    guide = (PACKAGE.parent / "docs").glob("*.md")
    elsewhere = [*guide, *(path for path in sources() if path.name != "references.py")]
    words = {w for path in elsewhere for w in re.findall(r"\w+", path.read_text(encoding="utf-8"))}
    assert [key for key in REFERENCES if key not in words] == []


def test_what_a_source_names_is_what_bibtex_gives():
    """Through the real docstrings: no key is lost between ``Source:`` and the entry."""
    named = 0
    for where, text in docstrings().items():
        for key in cited(text):
            assert bibtex(key).startswith("@"), where
            named += 1
        line = re.search(r"^Source: ([^\n]*)$", text, re.MULTILINE)
        if line:
            assert set(KEY.findall(line[1])) <= set(cited(text)), where
    assert named > 100


@pytest.mark.parametrize("key", REFERENCES)
def test_an_entry_agrees_with_its_key_and_has_what_bibtex_asks(key):
    work, entry = REFERENCES[key], REFERENCES[key].bibtex(key)
    if key[-1].isdigit():
        plain = work.authors.replace("ú", "u").replace("Š", "S").replace("á", "a").lower()
        assert key == re.sub(r"\d+", "", key) + str(work.year)
        assert re.sub(r"\d+", "", key) in plain
    lines = entry.split("\n")
    assert lines[0] == f"@{work.kind}{{{key}," and lines[-1] == "}"
    assert all(re.fullmatch(r"  [a-z]+ = \{.+\},", line) for line in lines[1:-1])
    assert entry.count("{") == entry.count("}")
    names = {line.split()[0] for line in lines[1:-1]}
    asked = {"inproceedings": "booktitle", "article": "journal", "book": "publisher",
             "phdthesis": "school", "misc": "title"}  # fmt: skip
    assert {"author", "title", "year", asked[work.kind]} <= names
    assert str(work).startswith(work.authors.split(" and ")[0]) and str(work.year) in str(work)


def test_what_cites_may_be_given():
    assert re.findall(r"@\w+\{(\w+),", bibtex(sigprop.g_star, "he2015")) == ["he2015", "hanin2020"]
    assert "@misc{hendrycks2016" in bibtex(activation("gelu"))
    assert sigprop.references.bibtex is bibtex
    assert bibtex().count("\n@") == len(REFERENCES) - 1
    for name in ACTIVATIONS:
        assert bibtex(activation(name))


def test_what_cites_nothing_is_refused():
    with pytest.raises(ValueError, match=r"unknown work 'saxe2041'.* Did you mean 'saxe2014'\?"):
        bibtex("saxe2041")
    with pytest.raises(ValueError, match="'len' cites no work"):
        bibtex(len)


def test_the_text_of_a_citation():
    assert str(REFERENCES["brock2021"]) == (
        "A. Brock, S. De and S. Smith, Characterizing Signal Propagation to Close the Performance "
        "Gap in Unnormalized ResNets, ICLR, 2021 (unit-variance gains)."
    )
    assert str(REFERENCES["he2015"]) == "K. He et al., Delving Deep into Rectifiers, ICCV, 2015."
    assert "volume = {376}" in bibtex("hanin2020") and "eprint = {1606.08415}" in bibtex(
        "hendrycks2016"
    )
