"""The page on files is executed: each example is read as it stands, and gives the rows that it says."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from hfthot_platform.errors import RejectedFileError
from hfthot_platform.market.sources.mapping import CsvMapping
from hfthot_platform.market.sources.recognise import recognise

PAGE = Path(__file__).parents[3] / "docs" / "files.md"
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


@pytest.mark.parametrize(("title", "text"), _sections(), ids=lambda each: each[:30])
def test_an_example_gives_the_rows_that_it_says(tmp_path, title, text) -> None:
    data: Path | None = None
    checked = 0
    for block in _BLOCK.finditer(text):
        facts = dict(each.split("=", 1) for each in block["facts"].split(" "))
        if "file" in facts:
            path = tmp_path / facts["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            # The line feed before the fence is the page's, where an example is about its absence.
            path.write_text(block["body"].removesuffix("\n") if "line feed" in title else block["body"])
            data = data if path.name.endswith("mapping.yaml") else path
            continue
        assert data is not None, title
        checked += 1
        if "refused" in facts:
            with pytest.raises(RejectedFileError) as caught:
                recognise(data)
            assert caught.value.reason == facts["refused"]
            continue
        probe, claim = recognise(data)
        batches = list(claim.adapter.read(probe, claim, source_ref="page"))
        assert {each.table for each in batches} == {facts["rows"]}
        assert sum(each.gaps for each in batches) == int(facts.get("gaps", 0))
        assert [each.rejected.rows() for each in batches] == [[]] * len(batches)
        header, *expected = [line.split(",") for line in block["body"].splitlines()]
        rows = pl.concat([each.rows for each in batches])
        columns = [rows[name].to_list() if name in rows.columns else [claim.venue] * rows.height for name in header]
        assert [[_written(value) for value in row] for row in zip(*columns, strict=True)] == expected
    assert checked, f"{title} shows nothing"


@pytest.mark.parametrize("field", list(CsvMapping.model_fields))
def test_every_field_of_the_mapping_is_on_the_page(field) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert re.search(rf"^{field}: ", text, flags=re.MULTILINE), f"no example declares {field}"
    assert re.search(rf"`{field}[`:]", text) or field in ("table", "venue", "symbol", "interval"), field
