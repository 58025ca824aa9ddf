"""A report as HTML: findings and table, for notebooks and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from sigprop.checking.columns import Column, Gap, columns, said_of, shown
from sigprop.checking.findings import Finding
from sigprop.checking.text import advice, grouped, places, sentences, verdict
from sigprop.records import counted

if TYPE_CHECKING:
    from sigprop.checking.result import CheckReport, LayerCheck

COLORS = {"unhealthy": "#c0392b", "warning": "#b9770e", "note": "#5d6d7e", "healthy": "#1e8449"}
"""Readable on white and on black."""
_NOTEBOOK = "font: 13px system-ui, sans-serif; max-width: 64em"
_CELL = "padding: .1em .6em; text-align: {}; white-space: nowrap"


def as_html(report: CheckReport) -> str:
    """For a notebook: a verdict, findings, a small table; without a style sheet or a script."""
    color = COLORS["healthy" if report.healthy else "unhealthy"]
    parts = [
        f'<div style="{_NOTEBOOK}">',
        f'<p><b style="color: {color}">{escape(verdict(report))}</b> '
        f"({escape(report.model)}, {counted(len(report.layers), 'weight layer')})</p>",
        *(finding_html(found) for found in grouped(report.findings)),
        _small_table(report),
        *sentences_html(report),
        "</div>",
    ]
    return "\n".join(parts)


def finding_html(found: Sequence[Finding]) -> str:
    """Findings of one problem: what it is, where, what to do."""
    level, told = found[0].level, advice(found)
    where = "".join(f"<li>{escape(line)}</li>" for line in places(found))
    remedy = f"<p><b>What to do:</b> {escape(told)}</p>" if told else ""
    color = COLORS[level]
    return (
        f'<div class="finding {level}" style="border-left: 4px solid {color}; '
        f'padding: .1em .8em; margin: .6em 0"><b style="color: {color}">{level}</b> '
        f"<b>{escape(found[0].problem)}</b><ul>{where}</ul>{remedy}</div>"
    )


def sentences_html(report: CheckReport) -> list[str]:
    """What the p-values of the model say."""
    said = (escape(sentence).replace(" = ", "&nbsp;=&nbsp;") for sentence in sentences(report))
    return [f"<p>{sentence}</p>" for sentence in said]


def head_html(found: Sequence[Column], style: str = "") -> str:
    """The two lines above a table."""
    groups, spans = list[str](), list[int]()
    for column in found:
        if column.group and groups and groups[-1] == column.group:
            spans[-1] += 1
        else:
            groups.append(column.group)
            spans.append(1)
    above = "".join(
        f'<th colspan="{span}"{style.format("center")}>{escape(group)}</th>'
        for group, span in zip(groups, spans, strict=True)
    )
    titles = "".join(
        f"<th{style.format(_side(column))}>{escape(column.title)}</th>" for column in found
    )
    return f"<thead><tr>{above}</tr><tr>{titles}</tr></thead>"


def row_html(found: Sequence[Column], layer: LayerCheck, style: str = "") -> str:
    """One layer of a table."""
    cells = "".join(
        f"<td{style.format(_side(column))}>{escape(column.cell(layer))}</td>" for column in found
    )
    return f"<tr>{cells}</tr>"


def _side(column: Column) -> str:
    return "right" if column.number else "left"


def _small_table(report: CheckReport) -> str:
    found, rows = columns(report), shown(report)
    said = said_of(report)
    if said:
        found.append(Column("", "found", lambda layer: said.get(layer.name, ""), False))
    if not report.layers:
        return ""
    style = f' style="{_CELL}"'
    lines = [
        f'<tr><td colspan="{len(found)}"{style.format("left")}>{escape(row.text)}</td></tr>'
        if isinstance(row, Gap)
        else row_html(found, row, style)
        for row in rows
    ]
    body = "".join(lines)
    return f"<table>{head_html(found, style)}<tbody>{body}</tbody></table>"
