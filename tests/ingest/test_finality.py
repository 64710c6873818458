"""Which bars of files are finished."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hfthot_platform.services.ingest import ingest_files
from hfthot_platform.storage.lakehouse import Lakehouse

START = datetime(2024, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Clock:
    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock(START + timedelta(days=90))


@pytest.fixture
def ingest(tmp_path, clock):
    lake = Lakehouse.open(tmp_path / "lake", clock=clock)

    def of(first: int, count: int, *, close: float = 10.0, mapping: str = "") -> dict[datetime, tuple[float, bool]]:
        path = tmp_path / f"SOLUSDT_1h_{first}_{close}.csv"
        lines = [f"{int((START + k * HOUR).timestamp())},9,12,8,{close},3" for k in range(first, first + count)]
        path.write_text("\n".join(["timestamp,open,high,low,close,volume", *lines, ""]))
        path.with_name(path.name + ".mapping.yaml").write_text(f"venue: binance\n{mapping}")
        (outcome,) = ingest_files(lake, [path])
        assert outcome.status == "published", outcome
        rows = lake.table("market.bars").scan().sort("ts").select("ts", "close", "final").collect().rows()
        return {ts: (value, final) for ts, value, final in rows}

    return of


def test_the_last_bar_of_a_file_is_finished_when_its_interval_has_passed(ingest) -> None:
    bars = ingest(0, 24)
    assert all(final for _, final in bars.values())


def test_a_bar_that_is_still_open_when_the_file_is_read_is_not_finished(ingest, clock) -> None:
    clock.now = START + 23.5 * HOUR
    bars = ingest(0, 24)
    assert [ts for ts, (_, final) in bars.items() if not final] == [START + 23 * HOUR]

    clock.now = START + 48 * HOUR
    bars = ingest(22, 4, close=11.0)
    assert all(final for _, final in bars.values())
    assert bars[START + 23 * HOUR][0] == 11.0


def test_a_file_that_says_when_it_was_made_is_believed(ingest) -> None:
    bars = ingest(0, 3, mapping="as_of: 2024-03-01T02:30:00Z\n")
    assert [final for _, final in bars.values()] == [True, True, False]


def test_the_last_bar_of_a_file_never_takes_the_place_of_a_finished_one(ingest) -> None:
    ingest(0, 4)
    bars = ingest(1, 2, close=11.0)
    assert [value for value, _ in bars.values()] == [10.0, 11.0, 10.0, 10.0]
    assert all(final for _, final in bars.values())


def test_the_last_bar_of_a_file_takes_the_place_of_an_unfinished_one(ingest, clock) -> None:
    clock.now = START + 2.5 * HOUR
    assert not ingest(0, 3)[START + 2 * HOUR][1]
    clock.now = START + 5 * HOUR
    assert ingest(2, 1, close=11.0, mapping="interval: 1h\n")[START + 2 * HOUR] == (11.0, True)
