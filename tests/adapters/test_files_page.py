"""The page on files is executed: each example is read as it stands, and gives the rows that it says."""

from __future__ import annotations

import re
import zipfile
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from hfthot_platform.adapters.files.mapping import CsvMapping
from hfthot_platform.adapters.recognise import Member, recognise_members

PAGE = Path(__file__).parents[2] / "docs" / "files.md"
_BLOCK = re.compile(r"```\w+ (?P<facts>[^\n]+)\n(?P<body>.*?)```", re.DOTALL)


def _sections() -> list[tuple[str, str]]:
    parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat()
    return "" if value is None else str(value)


@pytest.mark.soak
@pytest.mark.parametrize(("title", "text"), _sections(), ids=lambda line: line[:30])
def test_an_example_gives_the_rows_that_it_says(tmp_path, title, text) -> None:
    data: Path | None = None
    checked = 0
    for block in _BLOCK.finditer(text):
        facts = dict(fact.split("=", 1) for fact in block["facts"].split(" "))
        if "file" in facts:
            # The line feed before the fence is the page's, where an example is about its absence.
            body = block["body"].removesuffix("\n") if "line feed" in title else block["body"]
            path = _write(tmp_path, facts["file"], body)
            data = data if path.name.endswith("mapping.yaml") else path
            continue
        assert data is not None, title
        checked += 1
        members = list(recognise_members(data))
        if "refused" in facts:
            assert facts["refused"] in [member.error.reason for member in members if member.error]
            continue
        _check(block["body"], members, facts)
    assert checked, f"{title} shows nothing"


def _write(folder: Path, name: str, body: str) -> Path:
    """Write a file of the page, or a file within an archive, and return the path of what is ingested."""
    archive, within, member = name.partition(".zip/")
    path = folder / f"{archive}.zip" if within else folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if within:
        with zipfile.ZipFile(path, "a") as packed:
            packed.writestr(member, body)
    else:
        path.write_text(body)
    return path


def _check(body: str, members: list[Member], facts: dict[str, str]) -> None:
    """Compare what the members of a file hold for a table with the rows that the page shows."""
    claims = [
        (member.probe, member.claim) for member in members if member.claim and member.claim.table == facts["rows"]
    ]
    batches = [batch for probe, claim in claims for batch in claim.adapter.read(probe, claim, source_ref="page")]
    assert {batch.table for batch in batches} == {facts["rows"]}
    assert sum(batch.gaps for batch in batches) == int(facts.get("gaps", 0))
    assert [batch.rejected.rows() for batch in batches] == [[]] * len(batches)
    header, *expected = [line.split(",") for line in body.splitlines()]
    rows = pl.concat([batch.rows for batch in batches])
    columns = [rows[name].to_list() if name in rows.columns else [claims[0][1].venue] * rows.height for name in header]
    assert [[_written(value) for value in row] for row in zip(*columns, strict=True)] == expected


@pytest.mark.parametrize("field", list(CsvMapping.model_fields))
def test_every_field_of_the_mapping_is_on_the_page(field) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert re.search(rf"^{field}: ", text, flags=re.MULTILINE), f"no example declares {field}"
    assert re.search(rf"`{field}[`:]", text) or field in ("table", "venue", "symbol", "interval"), field
