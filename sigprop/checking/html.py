"""A report as HTML: findings and table, for notebooks and for the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from sigprop.checking.columns import Column, Gap, columns, said_of, shown
from sigprop.checking.findings import Finding
from sigprop.checking.text import advice, grouped, places, sentences, verdict
from sigprop.records import counted
from sigprop.results import CELL

if TYPE_CHECKING:
    from sigprop.checking.result import CheckReport

COLORS = {"unhealthy": "#dc4a38", "warning": "#c27c0e", "note": "#7f8c9a", "healthy": "#1e8449"}
"""Readable on white and on black."""
_FINDING = "border-left: 4px solid {}; padding: .1em .8em; margin: .6em 0"

Style = Callable[[Column], str]
"""The attribute of the cells of a column."""


def as_html(report: CheckReport) -> list[str]:
    """For a notebook: a verdict, findings, a small table; without a style sheet or a script."""
    color = COLORS["healthy" if report.healthy else "unhealthy"]
    return [
        f'<p><b style="color: {color}">{escape(verdict(report))}</b> '
        f"({escape(report.model)}, {counted(len(report.layers), 'weight layer')})</p>",
        *(finding_html(found) for found in grouped(report.findings)),
        f'<div style="overflow-x: auto">{table_html(report, style=_cell)}</div>',
        *sentences_html(report),
    ]


def finding_html(found: Sequence[Finding]) -> str:
    """Findings of one problem: what it is, where, what to do."""
    level, told = found[0].level, advice(found)
    where = "".join(f"<li>{escape(line)}</li>" for line in places(found))
    remedy = f"<p><b>What to do:</b> {escape(told)}</p>" if told else ""
    color = COLORS[level]
    return (
        f'<div class="finding" style="{_FINDING.format(color)}">'
        f'<b style="color: {color}">{level}</b> <b>{escape(found[0].problem)}</b>'
        f"<ul>{where}</ul>{remedy}</div>"
    )


def sentences_html(report: CheckReport) -> list[str]:
    """What the p-values of the model say."""
    said = (escape(sentence).replace(" = ", "&nbsp;=&nbsp;") for sentence in sentences(report))
    return [f"<p>{sentence}</p>" for sentence in said]


def table_html(report: CheckReport, *, everything: bool = False, style: Style) -> str:
    """The layers as a table; below a layer what findings and p-values say of it.

    Args:
        report: that is shown.
        everything: all layers and all columns; else as many as fit a notebook.
        style: of the cells.
    """
    if not report.layers:
        return ""
    found, said = columns(report, everything=everything), said_of(report)
    rows = report.layers if everything else shown(report)
    lines = [_head(found, style)]
    for row in rows:
        if isinstance(row, Gap):
            lines.append(_whole_row(found, row.text, "gap"))
            continue
        cells = (f"<td{style(column)}>{escape(column.cell(row))}</td>" for column in found)
        lines.append(f"<tr>{''.join(cells)}</tr>")
        if row.name in said:
            lines.append(_whole_row(found, f"↑ {said[row.name]}", "said"))
    body = "\n".join(lines)
    return f'<table style="font: inherit; border-collapse: collapse">{body}</tbody></table>'


def side(column: Column) -> str:
    """Where its cells stand."""
    return "right" if column.number else "left"


def _head(found: Sequence[Column], style: Style) -> str:
    """The two lines above a table."""
    groups = [(name, len(list(run))) for name, run in groupby(found, lambda column: column.group)]
    above = "".join(
        f'<th colspan="{span}" style="text-align: center" class="{"group" if name else ""}">'
        f"{escape(name)}</th>"
        for name, span in groups
    )
    titles = "".join(f"<th{style(column)}>{escape(column.title)}</th>" for column in found)
    return f"<thead><tr>{above}</tr><tr>{titles}</tr></thead><tbody>"


def _whole_row(found: Sequence[Column], text: str, kind: str) -> str:
    color = COLORS["unhealthy"] if kind == "said" else "inherit"
    return (
        f'<tr class="{kind}"><td colspan="{len(found)}" style="text-align: left; color: {color}">'
        f"{escape(text)}</td></tr>"
    )


def _cell(column: Column) -> str:
    """The style of a cell in a notebook, where there is no style sheet."""
    return f' style="{CELL.format(side(column))}"'
