"""README and guide: short, without a broken link, and as true as the code; the site builds."""

import re
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import sigprop
from sigprop.references import REFERENCES
from tests.test_walls import PACKAGE

TOP = PACKAGE.parent
DOCS = TOP / "docs"
PAGES = [TOP / "README.md", TOP / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(text: str) -> str:
    """A page without its blocks and pieces of code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


def anchors(page: Path) -> set[str]:
    """The names that headings have on a forge and on the site."""
    heads = re.findall(r"^#+ (.*)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken(page: Path) -> Iterator[str]:
    """The links of a page that lead nowhere in this repository."""
    for link in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if link.startswith("https://"):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def test_the_readme_is_short():
    assert len((TOP / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_and_no_picture_is_broken(page):
    assert list(broken(page)) == []


def test_a_broken_link_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A b\n[x](gone.md) [y](#a-b) [z](#a-c) ![p](no.png) `[c](d)`", "utf-8")
    assert list(broken(page)) == ["gone.md", "#a-c", "no.png"]


def test_every_page_and_every_figure_is_shown():
    """Each page is in the site's navigation, each figure on a page or in the gallery."""
    nav = (DOCS / "site" / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in sorted(DOCS.glob("*.md")) if f": {page.name}\n" not in nav] == []
    shown = [*PAGES, *(TOP / "figures").glob("README.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in shown)
    figures = [figure.name for figure in sorted((TOP / "figures").glob("*.png"))]
    assert [name for name in figures if name not in text] == []


def test_the_page_of_an_index_has_no_link_into_the_repository():
    """What a package index shows has no files beside it."""
    text = (TOP / "README.md").read_text(encoding="utf-8")
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    for change in hook["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    assert all(link.startswith("https://") for link in LINK.findall(prose(text)))
    assert "![" not in text and "Initializing (`docs/initializing.md`)" in text
    assert "<!-- ci:test -->" in text and "|---|---|" in text


def test_one_version_and_one_licence():
    project, citation = PROJECT["project"], (TOP / "CITATION.cff").read_text(encoding="utf-8")
    version = project["version"]
    assert sigprop.__version__ == version and f"\nversion: {version}\n" in citation
    assert f"## [{version}]" in (TOP / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"license: {project['license']}\n" in citation
    assert f'title: "{REFERENCES["sigprop"].title}"' in citation
    assert f'name: "{project["authors"][0]["name"]}"' in citation


def test_nothing_newer_than_the_oldest_numpy_and_scipy_is_used():
    assert {"numpy>=1.26", "scipy>=1.11"} <= set(PROJECT["project"]["dependencies"])
    new = (
        "trapezoid vecdot matvec vecmat isdtype astype concat permute_dims matrix_transpose "
        "unstack cumulative_sum cumulative_prod bitwise_count bitwise_invert unique_all "
        "unique_counts unique_inverse unique_values pow acos acosh asin asinh atan atan2 atanh"
    )
    of_scipy = "sparse.eye_array sparse.diags_array sparse.random_array"
    names = [*(f"np.{name}" for name in new.split()), *of_scipy.split()]
    used = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
    found = {
        f"{path.name}: {met[0]}"
        for path in PACKAGE.rglob("*.py")
        for met in used.finditer(path.read_text(encoding="utf-8"))
    }
    assert found == set()


# The training script


def test_the_script_on_its_page_is_the_one_that_runs():
    script = (DOCS / "train_digits.py").read_text(encoding="utf-8")
    assert f"```python\n{script}```" in (DOCS / "training_script.md").read_text(encoding="utf-8")


def test_the_training_script_does_what_its_page_says(capsys):
    """With fewer steps: what is wrong before is named, nothing is wrong after."""
    torch, monitoring = pytest.importorskip("torch"), sigprop.monitoring
    pytest.importorskip("sklearn", reason="the digits ship with scikit-learn")
    script = (DOCS / "train_digits.py").read_text(encoding="utf-8")
    short = script.replace("steps: int = 300", "steps: int = 4")
    assert short != script
    with torch.random.fork_rng(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.manual_seed(0)
        exec(compile(short, "train_digits.py", "exec"), {"__name__": "script"})
    assert {warning.category for warning in caught} == {monitoring.MonitorWarning}
    assert "gain off g*" in str(caught[0].message)
    before, rest = capsys.readouterr().out.split("\nPLAN\n")
    plan, after = rest.split("\nAFTER\n")
    assert "unhealthy: 2 problems" in before and "gain off g*" in before
    assert "gradient vanishes" in before and "samples collapse" in before
    assert plan.count("1.37199") >= 10
    assert after.startswith("healthy: nothing to report")
    assert before.count("new digits are right") == after.count("new digits are right") == 1


# The site


def test_the_site_builds_without_a_warning(tmp_path):
    for name in ("mkdocs", "mkdocstrings_handlers.python"):
        pytest.importorskip(name, reason="mkdocs is not installed: pip install 'sigprop[docs]'")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(DOCS / "site" / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    reference = "\n".join(page.read_text("utf-8") for page in (tmp_path / "api").glob("*.html"))
    ids = {name.rpartition(".")[2] for name in re.findall(r'id="(sigprop[\w.]+)"', reference)}
    values = {name: getattr(sigprop, name) for name in sigprop.__all__}
    assert {name for name, value in values.items() if callable(value)} <= ids
    for page in tmp_path.glob("*.html"):
        for source in re.findall(r'<img[^>]* src="([^"]+)"', page.read_text("utf-8")):
            assert source.startswith("data:") or (page.parent / source).exists(), (page, source)
