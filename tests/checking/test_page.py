"""The page: one file that needs nothing else, read back from a browser as a reader sees it."""

import re
import shutil
import subprocess
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest

from sigprop.checking import Finding
from tests.checking.reports import ResNet, image, mlp, report_of, rows
from tests.checking.test_shown import EVIL, evil, parsed

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on this machine")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--window-size=1200,900",
)  # fmt: skip
SICK = Finding("blocks.2.conv2", "dead", "no unit fires", "Set its bias to 0.", "unhealthy")


@pytest.fixture(scope="module")
def sound():
    return report_of(mlp(), rows())


@pytest.fixture(scope="module")
def sick():
    report = report_of(ResNet(blocks=6, channels=4), image(2, 4), block=r"blocks\.\d+")
    return replace(report, findings=(SICK,))


def browser(page, folder, *do):
    """What a browser prints of a page; a folder of its own is all that it may write to."""
    command = [BROWSER, *QUIET, f"--user-data-dir={folder}/browser", *do, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def seen(report, tmp_path, change=lambda text: text):
    """A picture of the page as the browser shows it."""
    page = report.to_html(tmp_path / "page.html")
    page.write_text(change(page.read_text()))
    browser(page, tmp_path, f"--screenshot={tmp_path}/page.png")
    return matplotlib.image.imread(tmp_path / "page.png")[..., :3]


def text_of(html):
    return re.sub(r"\s+", " ", " ".join(parsed(html.replace("<!DOCTYPE html>", "")).text))


def test_the_page_needs_no_network_no_script_and_no_other_file(sick, tmp_path):
    html = sick.to_html(tmp_path / "deep" / "page.html").read_text()
    page = parsed(html)
    tags = {tag for tag, _ in page.tags}
    assert {"svg", "style", "table"} <= tags
    assert not {"script", "link", "img", "iframe", "object", "a"} & tags
    assert not re.search(r"https?:|url\(|@import|src=", html)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_findings_come_first_then_profile_then_layers(sick, tmp_path):
    text = text_of(sick.to_html(tmp_path / "page.html").read_text())
    body = text[text.index("Findings") :]
    order = [
        body.index(words)
        for words in (
            "dead",
            "What to do:",
            "Profile",
            "Signal",
            "Gradient",
            "Weights",
            "law of weights",
        )
    ]
    assert order == sorted(order)  # fmt: skip
    for layer in sick.layers:
        assert f" {layer.name} " in text
    assert "1 problem · 14 weight layers · x 2x3x4x4" in text


def test_the_file_is_written_as_a_whole(sound, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    assert sound.to_html(str(path)) == path
    assert path.read_text().endswith("</html>\n")
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(OSError):
        sound.to_html(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def points(html, kind):
    return re.findall(rf'<circle class="{kind}" cx="([\d.]+)" cy="([\d.]+)"', html)


def test_the_picture_shows_what_the_profile_holds(sick, tmp_path):
    html = sick.to_html(tmp_path / "page.html").read_text()
    profile = sick.profile()
    assert html.count('<rect class="block"') == 2 * 3  # every other one of 6, in two panels
    assert html.count('<circle class="ring"') == 2
    for key in ("q", "gradient"):
        drawn = points(html, f"{key} layer") + points(html, f"{key} stream")
        layers = [row for row in profile if row["kind"] == "layer"]
        rows_drawn = layers + [row for row in profile if row["kind"] == "stream"]
        y = np.array([float(y) for _, y in drawn])
        log = np.log10([row[key] for row in rows_drawn])
        slope, start = np.polyfit(log, y, 1)
        assert slope < 0 and np.abs(slope * log + start - y).max() < 0.1
    tip = re.search(r'<g class="tip">(?:(?!</g>).)*>blocks\.2\.conv2<.*?</g>', html).group()
    (row,) = (row for row in profile if row["name"] == "blocks.2.conv2")
    assert f"signal: {row['q_predicted']:.3g} predicted, {row['q']:.3g} measured" in tip
    assert "dead" in tip and "Conv2d, torch default" in tip


def test_zero_and_not_finite_have_a_sign_at_the_edge(sound, tmp_path):
    first, second, *rest = sound.layers
    layers = (replace(first, q=0.0, gradient=float("nan")), replace(second, gradient=None), *rest)
    html = replace(sound, layers=layers).to_html(tmp_path / "page.html").read_text()
    assert re.search(r'<text class="q edge"[^>]*>0</text>', html)
    assert re.search(r'<text class="gradient edge"[^>]*>!</text>', html)
    assert len(points(html, "q layer")) == 4 and len(points(html, "gradient layer")) == 3


def test_a_net_that_holds_its_signal_looks_flat_and_hundreds_of_decades_fit(sound, tmp_path):
    def heights(*values):
        layers = [replace(layer, q=q, q_predicted=q)
                  for layer, q in zip(sound.layers, values, strict=True)]  # fmt: skip
        html = replace(sound, layers=tuple(layers)).to_html(tmp_path / "page.html").read_text()
        return [float(y) for _, y in points(html, "q layer")], html

    flat, _ = heights(1, 1.1, 0.9, 1, 1.05)
    assert max(flat) - min(flat) < 12
    wild, html = heights(1e-300, 1e-100, 1, 1e100, 1e300)
    assert all(34 <= y <= 34 + 190 for y in wild) and max(wild) - min(wild) > 150
    assert len(re.findall('<line class="grid"', html)) <= 2 * 8


@needs_browser
def test_a_browser_shows_it_and_loads_nothing_else(sick, tmp_path):
    page = sick.to_html(tmp_path / "page.html")
    measured = (
        "<script>onload = () => { const box = document.querySelector('svg.profile')"
        ".getBoundingClientRect(); document.body.dataset.found = [innerWidth - "
        "document.documentElement.scrollWidth, box.width, box.height, "
        "performance.getEntriesByType('resource').length, "
        "getComputedStyle(document.querySelector('.tip')).visibility].join(); }</script>"
    )
    page.write_text(page.read_text().replace("</body>", f"{measured}</body>"))
    dumped = browser(page, tmp_path, "--dump-dom")
    spare, width, height, loaded, tip = re.search('data-found="(.*?)"', dumped).group(1).split(",")
    assert float(spare) >= 0 and float(width) > 900 and 300 < float(height) < 900
    assert loaded == "0" and tip == "hidden"
    assert text_of(dumped.split("<script>")[0] + "</body></html>")


@needs_browser
def test_names_cannot_run_in_a_browser(sound, tmp_path):
    page = evil(sound).to_html(tmp_path / "page.html")
    dumped = browser(page, tmp_path, "--dump-dom")
    assert "<script" not in dumped
    assert any(EVIL in text for text in parsed(dumped.replace("<!DOCTYPE html>", "")).text)


@needs_browser
def test_it_is_readable_on_white_and_on_black_and_printed(sick, tmp_path):
    light = seen(sick, tmp_path)
    dark = seen(
        sick, tmp_path, lambda text: text.replace("prefers-color-scheme: dark", "min-width: 1px")
    )
    assert light[-1, 0].min() > 0.95 and dark[-1, 0].max() < 0.15  # the page itself
    for picture in (light, dark):
        ink = np.abs(picture - picture[-1, 0]).max(axis=2)
        assert (ink > 0.5).mean() > 0.01  # letters and points stand out
    browser(tmp_path / "page.html", tmp_path, f"--print-to-pdf={tmp_path}/page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
