"""A report as one page that needs no network and no other file."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from sigprop.checking.columns import Column
from sigprop.checking.html import COLORS, finding_html, sentences_html, side, table_html
from sigprop.checking.picture import picture
from sigprop.checking.text import grouped, verdict
from sigprop.records import counted

if TYPE_CHECKING:
    from sigprop.checking.result import CheckReport

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --pale: #65707c; --line: #d9dee4;
  --page: #ffffff; --card: #f5f7f9; --q: #0072b2; --gradient: #c2500a; --alarm: #c0392b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebee; --pale: #9aa5b1; --line: #39424d;
  --page: #14181d; --card: #1e242b; --q: #56b4e9; --gradient: #ff9b5e; --alarm: #ff6b5b; } }
body { background: var(--page); color: var(--ink); font: 15px/1.45 system-ui, sans-serif;
  max-width: 70rem; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 1.6rem 0 .4rem; }
.badge { display: inline-block; color: #fff; border-radius: .3rem; padding: 0 .5em; }
.pale, footer { color: var(--pale); } p { margin: .3rem 0; }
.finding { background: var(--card); border-radius: .3rem; } .finding ul { margin: .2rem 0; }
svg.profile { width: 100%; height: auto; font: 13px system-ui, sans-serif; }
svg text { fill: var(--ink); } svg .title { font-weight: 600; font-size: 15px; }
svg .what, svg .number, svg .name { fill: var(--pale); font-weight: 400; font-size: 13px; }
svg .number { text-anchor: end; } svg .name { text-anchor: middle; }
svg .name.last { text-anchor: end; } svg .grid, svg .tick { stroke: var(--line); }
svg .block { fill: var(--card); } svg path { fill: none; stroke-width: 1.3; }
svg path.stream { stroke-width: 3.5; stroke-opacity: .55; }
svg path.inside { stroke-opacity: .45; } svg path.q { stroke: var(--q); }
svg path.gradient { stroke: var(--gradient); }
svg circle { stroke: var(--page); stroke-width: .8; }
svg circle.q, svg text.q { fill: var(--q); }
svg circle.gradient, svg text.gradient { fill: var(--gradient); }
svg .edge { text-anchor: middle; font-weight: 700; }
svg circle.ring { fill: none; stroke: var(--alarm); stroke-width: 2; }
svg .hit { fill: transparent; } svg .place { outline: none; }
svg .tip { visibility: hidden; pointer-events: none; }
svg .place:hover .tip, svg .place:focus .tip { visibility: visible; }
svg .tip rect { fill: var(--page); stroke: var(--pale); } svg .tip line { stroke: var(--pale); }
.key { display: inline-block; width: 1.6em; border-top: 2px solid var(--pale);
  vertical-align: middle; margin: 0 .3em 0 .9em; }
.key.dot { width: .55em; height: .55em; border: 0; border-radius: 50%; background: var(--pale); }
.key.thick { border-top-width: 5px; opacity: .6; }
.key.ringed { width: .6em; height: .6em; border: 2px solid var(--alarm); border-radius: 50%; }
.wide { overflow-x: auto; }
th, td { padding: .15em .5em; text-align: left; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th.right, td.right { text-align: right; } td.note { white-space: normal; min-width: 14em; }
th { color: var(--pale); font-weight: 600; }
th.group { border-bottom: 1px solid var(--line); } .wide { font-size: .8rem; }
tbody tr:nth-child(even) { background: var(--card); }
@media print { :root { --ink: #000; --pale: #444; --line: #ccc; --page: #fff; --card: #f3f3f3;
  --q: #0072b2; --gradient: #c2500a; --alarm: #c0392b; } body { margin: 0; max-width: none; }
  .finding, svg, tr { break-inside: avoid; } h2 { break-after: avoid; }
  thead { display: table-header-group; } .wide { overflow: visible; } .screen { display: none; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .wide { page: wide; font-size: .65rem; } }
@page wide { size: landscape; }
"""


def as_page(report: CheckReport) -> str:
    """Findings first, then the profile, the layers, and what the weights say."""
    word = "healthy" if report.healthy else "unhealthy"
    title = f"{report.model}: {verdict(report)}"
    findings = [finding_html(found) for found in grouped(report.findings)]
    parts = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body>",
        f'<h1><span class="badge" style="background: {COLORS[word]}">{word}</span> '
        f"{escape(report.model)}</h1>",
        f'<p class="pale">{escape(_summary(report))}</p>',
        "<h2>Findings</h2>",
        *(findings or ["<p>Nothing to report.</p>"]),
        f"<h2>Profile</h2>{_legend(report)}{picture(report)}" if report.layers else "",
        "<h2>Weights</h2>",
        *sentences_html(report),
        f'<div class="wide">{table_html(report, everything=True, style=_cell)}</div>',
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _summary(report: CheckReport) -> str:
    """What was checked, in a line."""
    entries = report.measured.graph.of_kind("input")
    shapes = [
        f"{node.name} {'x'.join(map(str, node.shape))}"
        for node in entries
        if node.shape is not None
    ]
    parts = [
        verdict(report).partition(": ")[2],
        counted(len(report.layers), "weight layer"),
        *shapes,
    ]
    return " · ".join(parts)


def _legend(report: CheckReport) -> str:
    """What the signs of the picture are."""
    signs = {"": "predicted", "dot": "measured"}
    if any(layer.block for layer in report.layers):
        signs |= {"thick": "the residual stream, where each block joins it"}
    if any(row["found"] for row in report.profile()):
        signs |= {"ringed": "a finding"}
    keys = "".join(f'<span class="key {sign}"></span>{what}' for sign, what in signs.items())
    return f'<p class="pale">{keys}<span class="screen">. Point at a layer to read it.</span></p>'


def _cell(column: Column) -> str:
    """The class of a cell, for the style sheet."""
    return f' class="{side(column)} {column.title.partition(" ")[0]}"'
