"""Pages of the models: for each one what it is, where its columns come from, its tests and its SQL.

Every page is there twice: as HTML that needs nothing beside it (the lineage graph is inline SVG), and as Markdown
for a repository's web view (the graph is Mermaid).  The same models give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final

from hfthot_platform.domain.contracts.dictionary import TYPE_NAMES, keeping
from hfthot_platform.services.sql.models.model import Models, SqlModel

__all__ = ["lineage_levels", "write_docs"]

_BOX_HEIGHT: Final = 30
_BOX_GAP: Final = 12
_LEVEL_GAP: Final = 60
_CHARACTER: Final = 7.3  # width of one at 12 px in the monospaced fonts of the style sheet

_STYLE: Final = """\
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #2f6fdb; }
body { font: 15px/1.55 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { margin-bottom: 0; } nav { margin-bottom: 1.5rem; } a { color: var(--accent); text-decoration: none; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; font-size: 14px; }
th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
code, pre, svg text { font-family: ui-monospace, "DejaVu Sans Mono", monospace; }
pre { background: var(--soft); padding: 1rem; overflow-x: auto; font-size: 13px; }
.facts { color: #888; } .graph { overflow-x: auto; }
svg rect { fill: var(--soft); stroke: var(--line); rx: 5px; } svg .self rect { stroke: var(--accent); stroke-width: 2; }
svg text { font-size: 12px; fill: currentColor; } svg path { fill: none; stroke: #888; }
"""


def write_docs(models: Models, folder: Path, *, select: Iterable[str] = ()) -> int:
    """Write the pages into a folder, which is made if it is absent, and return how many models have one.

    Args:
        models: all models, so that lineage is whole.
        folder: where the pages go.
        select: models that get a page, see `Models.select`; all by default.
    """
    chosen = models.select(select)
    folder.mkdir(parents=True, exist_ok=True)
    pages = {model.name for model in chosen}
    for model in chosen:
        (folder / f"{model.name}.html").write_text(_html_page(model, models, pages), encoding="utf-8")
        (folder / f"{model.name}.md").write_text(_markdown_page(model, models, pages), encoding="utf-8")
    (folder / "index.html").write_text(_html_index(chosen), encoding="utf-8")
    (folder / "index.md").write_text(_markdown_index(chosen), encoding="utf-8")
    return len(chosen)


def lineage_levels(models: Models, name: str) -> tuple[list[list[str]], list[tuple[str, str]]]:
    """Return what a model is made of and what is made of it, as levels from left to right, and the edges between.

    Everything stands to the right of what it reads.
    """
    edges: set[tuple[str, str]] = set()
    for upwards in (True, False):
        waiting = [name]
        seen: set[str] = set()
        while waiting:
            at = waiting.pop()
            if at in seen:
                continue
            seen.add(at)
            if upwards:
                found = [(origin, at) for origin in (models.by_name[at].depends_on if at in models.by_name else ())]
            else:
                found = [(at, model.name) for model in models if at in model.depends_on]
            edges |= set(found)
            waiting += [source if upwards else target for source, target in found]
    level = {name: 0} | dict.fromkeys({end for edge in edges for end in edge}, 0)
    for _ in level:
        for source, target in edges:
            level[target] = max(level[target], level[source] + 1)
    # A table that is read late stands beside its reader, not at the far left.
    for node in sorted(level, key=lambda known: -level[known]):
        readers = [level[target] for source, target in edges if source == node]
        if readers and node not in models.by_name:
            level[node] = min(readers) - 1
    levels = [sorted(node for node in level if level[node] == at) for at in range(max(level.values()) + 1)]
    return [column for column in levels if column], sorted(edges)


# -- HTML -------------------------------------------------------------------------------------------------------


def _html_page(model: SqlModel, models: Models, pages: set[str]) -> str:
    tests = [(escape(test.says), _gate(model, test.gate)) for test in model.tests]
    parts = [
        '<nav><a href="index.html">All models</a></nav>',
        f"<h1>{escape(model.name)}</h1>",
        f'<p class="facts">{escape(_facts(model))}</p>',
        f"<p>{_prose(model.description)}</p>",
        f'<h2>Lineage</h2><div class="graph">{_svg(model.name, models, pages)}</div>',
        "<h2>Columns</h2>",
        _html_table(
            ("column", "type", "unit", "meaning", "made of"),
            [
                (
                    f'<code id="{escape(name)}">{escape(name)}</code>',
                    escape(kind),
                    escape(unit),
                    _prose(meaning),
                    ", ".join(_html_column(table, column, pages) for table, column in model.lineage.get(name, ())),
                )
                for name, kind, unit, meaning in _column_facts(model)
            ],
        ),
        "<h2>Tests</h2>",
        _html_table(("promise", "judged"), tests) if tests else "<p>None.</p>",
        "<h2>SQL</h2>",
        f"<pre>{escape(model.sql)}</pre>",
    ]
    return _html(model.name, parts)


def _html_index(models: Sequence[SqlModel]) -> str:
    rows = [
        (
            f'<a href="{escape(model.name)}.html">{escape(model.name)}</a>',
            model.materialized,
            _prose(model.description),
            escape(model.header.owner),
            escape(", ".join(model.header.tags)),
        )
        for model in models
    ]
    titles = ("model", "kept as", "what it holds", "owner", "tags")
    return _html("SQL models", ["<h1>SQL models</h1>", _html_table(titles, rows)])


def _html(title: str, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>\n{_STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def _html_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{title}</th>" for title in titles)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>\n{body}</table>"


def _prose(text: str) -> str:
    """Return text as HTML, with what stands in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _html_column(table: str, column: str, pages: set[str]) -> str:
    text = escape(f"{table}.{column}")
    return f'<a href="{escape(table)}.html#{escape(column)}">{text}</a>' if table in pages else text


def _svg(name: str, models: Models, pages: set[str]) -> str:
    levels, edges = lineage_levels(models, name)
    places: dict[str, tuple[float, float, float]] = {}
    left = 1.0
    tallest = max(map(len, levels)) * (_BOX_HEIGHT + _BOX_GAP) - _BOX_GAP
    for level in levels:
        width = max(map(len, level)) * _CHARACTER + 20
        top = 1 + (tallest - len(level) * (_BOX_HEIGHT + _BOX_GAP) + _BOX_GAP) / 2
        for node in level:
            places[node] = left, top, width
            top += _BOX_HEIGHT + _BOX_GAP
        left += width + _LEVEL_GAP
    out = [f'<svg width="{left - _LEVEL_GAP + 1:.0f}" height="{tallest + 2:.0f}" role="img">']
    for source, target in edges:
        x1, y1 = places[source][0] + places[source][2], places[source][1] + _BOX_HEIGHT / 2
        x2, y2 = places[target][0], places[target][1] + _BOX_HEIGHT / 2
        bend = (x1 + x2) / 2
        out.append(f'<path d="M{x1:.0f},{y1:.0f} C{bend:.0f},{y1:.0f} {bend:.0f},{y2:.0f} {x2:.0f},{y2:.0f}"/>')
    self_class = ' class="self"'
    for node, (x, y, width) in places.items():
        box = (
            f'<g{self_class if node == name else ""}><rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" '
            f'height="{_BOX_HEIGHT}"/><text x="{x + 10:.0f}" y="{y + 19:.0f}">{escape(node)}</text></g>'
        )
        linked = node in pages and node != name
        out.append(f'<a href="{escape(node)}.html">{box}</a>' if linked else box)
    return "\n".join([*out, "</svg>"])


# -- Markdown ---------------------------------------------------------------------------------------------------


def _markdown_page(model: SqlModel, models: Models, pages: set[str]) -> str:
    levels, edges = lineage_levels(models, model.name)
    ids = {node: f"n{number}" for number, node in enumerate(node for level in levels for node in level)}
    graph = [f'  {ids[node]}["{node}"]' for node in ids]
    graph += [f"  {ids[source]} --> {ids[target]}" for source, target in edges]
    columns = [
        (
            f"`{name}`",
            kind,
            _cell(unit),
            _cell(meaning),
            ", ".join(_markdown_column(table, column, pages) for table, column in model.lineage.get(name, ())),
        )
        for name, kind, unit, meaning in _column_facts(model)
    ]
    tests = [(f"`{_cell(test.says)}`", _gate(model, test.gate)) for test in model.tests]
    lines = [
        f"# {model.name}\n",
        f"[All models](index.md). {_facts(model)}\n",
        f"{model.description}\n",
        "```mermaid\ngraph LR\n" + "\n".join(graph) + "\n```\n",
        _markdown_table(("column", "type", "unit", "meaning", "made of"), columns),
        *([_markdown_table(("promise", "judged"), tests)] if tests else []),
        f"```sql\n{model.sql}\n```",
    ]
    return "\n".join(lines) + "\n"


def _markdown_index(models: Sequence[SqlModel]) -> str:
    rows = [
        (f"[{model.name}]({model.name}.md)", model.materialized, _cell(model.description), model.header.owner)
        for model in models
    ]
    return "# SQL models\n\n" + _markdown_table(("model", "kept as", "what it holds", "owner"), rows)


def _markdown_column(table: str, column: str, pages: set[str]) -> str:
    return f"[{table}.{column}]({table}.md)" if table in pages else f"{table}.{column}"


def _markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


# -- both -------------------------------------------------------------------------------------------------------


def _facts(model: SqlModel) -> str:
    header = model.header
    parts = [f"{header.materialized.capitalize()} of {header.owner.removeprefix('team:')}", model.file]
    if model.contract is not None:
        parts.append(f"key {', '.join(model.contract.primary_key)}")
        parts.append(keeping(model.contract).replace("`", ""))
    if header.schedule:
        parts.append(f"on schedule {header.schedule}")
    if header.tags:
        parts.append(f"tags {', '.join(header.tags)}")
    return "; ".join(parts) + "."


def _column_facts(model: SqlModel) -> list[tuple[str, str, str, str]]:
    out = []
    for published_column in model.published_columns:
        notes = [published_column.description] if published_column.description else []
        notes += ["may be empty"] if published_column.nullable else []
        notes += ["personal data"] if published_column.personal else []
        out.append((published_column.name, TYPE_NAMES[published_column.dtype], published_column.unit, "; ".join(notes)))
    return out


def _gate(model: SqlModel, gate: bool) -> str:  # noqa: FBT001 - one of two words
    if model.contract is None:
        return "every night"
    return "before publication" if gate else "after publication"
