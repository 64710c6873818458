"""Tables that are partly stated and partly computed: the vendor's statement stands, nothing in between is lost."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import polars as pl
import pytest

from hfthot_platform.adapters.ports import Batch
from hfthot_platform.core.errors import AuditFailedError
from hfthot_platform.core.settings import load_settings
from hfthot_platform.domain.market.bars import bars_from_trades
from hfthot_platform.services.derive.derivation import derive
from hfthot_platform.services.ingest import stated_by
from hfthot_platform.storage.lakehouse import Lakehouse, Stamp, staging
from hfthot_platform.storage.lakehouse.datafiles import DataFiles

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = (date(2024, 1, 1), date(2024, 1, 3))
TABLE = "market.bars_1m"


@pytest.fixture
def settings(tmp_path):
    return load_settings(lake_root=str(tmp_path / "lake"), scratch=tmp_path / "scratch", feeds=[])


@pytest.fixture
def lake(tmp_path):
    return Lakehouse.open(tmp_path / "lake", new=True)


def bars(minutes, *, close=10.0, origin="trades", final=True, ref="computed:1", symbol="BTC-EUR"):
    times = [START + timedelta(minutes=n) for n in minutes]
    return pl.DataFrame(
        {
            "venue": "kraken",
            "symbol": symbol,
            "ts": times,
            "ts_close": [time + timedelta(minutes=1) for time in times],
            **dict.fromkeys(("open", "high", "low", "close"), close),
            "volume": 1.0,
            "final": final,
            "origin": origin,
            "source": "vendor_history",
            "source_ref": ref,
        },
        schema_overrides={"ts": pl.Datetime("us", "UTC"), "ts_close": pl.Datetime("us", "UTC")},
    )


def stated(minutes, *, close=20.0, final=True, ref="vendor:1"):
    return bars(minutes, close=close, origin="vendor", final=final, ref=ref)


class StatingFeed:
    name = "stating"
    tables = (TABLE,)

    def __init__(self, rows: pl.DataFrame) -> None:
        self.rows = rows

    def fetch(self, table, start, end, *, progress=None) -> Iterator[Batch]:
        yield Batch(table, self.rows.filter(pl.col("ts") >= start, pl.col("ts") < end), "vendor:1")


def publish(lake, settings, compute, *, feeds=(), days=DAYS, meanwhile=None, table=TABLE):
    stated = stated_by(feeds, lake, table, settings=settings)
    with derive(lake, table, days, compute, stated=stated, settings=settings) as derivation:
        if meanwhile is not None:
            meanwhile()
        return derivation.publish(Stamp(run_id="r"))


def closes(lake):
    rows = lake.table(TABLE).scan().sort("ts").collect()
    return [((ts - START) // timedelta(minutes=1), close) for ts, close in rows.select("ts", "close").iter_rows()]


# --- precedence ----------------------------------------------------------------------------------------------------


def test_computed_rows_are_published(lake, settings):
    (commit,) = publish(lake, settings, lambda _: bars(range(3)))
    assert (commit.rows_published, commit.table) == (3, TABLE)
    assert closes(lake) == [(0, 10.0), (1, 10.0), (2, 10.0)]


def test_what_a_feed_states_takes_the_place_of_what_is_computed(lake, settings):
    publish(lake, settings, lambda _: bars(range(3)), feeds=[StatingFeed(stated([1]))])
    assert closes(lake) == [(0, 10.0), (1, 20.0), (2, 10.0)]


def test_what_a_vendors_file_stated_before_stands(lake, settings):
    lake.table(TABLE).merge(stated([1, 2]))
    publish(lake, settings, lambda _: bars(range(4)))
    assert closes(lake) == [(0, 10.0), (1, 20.0), (2, 20.0), (3, 10.0)]


def test_a_feed_that_cannot_fill_the_table_is_not_asked(lake, settings):
    feed = StatingFeed(stated([1]))
    feed.tables = ("market.trades",)
    publish(lake, settings, lambda _: bars(range(2)), feeds=[feed])
    assert closes(lake) == [(0, 10.0), (1, 10.0)]


def test_a_computed_row_that_is_no_longer_computed_goes(lake, settings):
    publish(lake, settings, lambda _: bars(range(4)))
    publish(lake, settings, lambda _: bars([0, 2]))
    assert closes(lake) == [(0, 10.0), (2, 10.0)]


def test_only_the_span_is_replaced(lake, settings):
    outside = 3 * 1440
    lake.table(TABLE).merge(bars([outside], close=99.0))
    publish(lake, settings, lambda _: bars(range(2)))
    assert closes(lake) == [(0, 10.0), (1, 10.0), (outside, 99.0)]


# --- company -------------------------------------------------------------------------------------------------------


def test_a_vendors_rows_that_arrive_while_it_computes_stand(lake, settings):
    publish(
        lake,
        settings,
        lambda _: bars(range(4)),
        meanwhile=lambda: lake.table(TABLE).merge(stated([1, 5], ref="file:1")),
    )
    assert closes(lake) == [(0, 10.0), (1, 20.0), (2, 10.0), (3, 10.0), (5, 20.0)]


def test_rows_that_arrive_during_the_commit_itself_stand(lake, settings, monkeypatch):
    """Another writer commits between the read and the write of the replacement: the whole is read again."""
    publish(lake, settings, lambda _: bars(range(4), close=9.0))
    commit, arrived = DataFiles.commit, []

    def late(*args, **kwargs):
        if not arrived:
            arrived.append(True)
            Lakehouse.open(lake.storage.root).table(TABLE).merge(stated([1]))
        commit(*args, **kwargs)

    monkeypatch.setattr(DataFiles, "commit", late)
    (done,) = publish(lake, settings, lambda _: bars(range(4)))
    assert arrived
    assert done.attempts > 1
    assert closes(lake) == [(0, 10.0), (1, 20.0), (2, 10.0), (3, 10.0)]


def test_a_feeds_statement_corrects_an_older_one(lake, settings):
    lake.table(TABLE).merge(stated([1], close=19.0, ref="file:1"))
    publish(lake, settings, lambda _: bars(range(2)), feeds=[StatingFeed(stated([1]))])
    assert closes(lake) == [(0, 10.0), (1, 20.0)]


def test_a_feed_that_repeats_a_files_statement_leaves_it_with_its_provenance(lake, settings):
    lake.table(TABLE).merge(stated([1], ref="file:1"))
    publish(lake, settings, lambda _: bars([0]), feeds=[StatingFeed(stated([1]))])
    rows = lake.table(TABLE).scan().sort("ts").collect()
    assert rows["source_ref"].to_list() == ["computed:1", "file:1"]


def test_an_unfinished_bar_of_a_feed_does_not_replace_a_finished_one(lake, settings):
    def meanwhile():
        lake.table(TABLE).merge(stated([1], close=21.0, ref="file:1"))

    feed = StatingFeed(stated([1], close=20.0, final=False))
    publish(lake, settings, lambda _: bars([0]), feeds=[feed], meanwhile=meanwhile)
    assert closes(lake) == [(0, 10.0), (1, 21.0)]
    assert lake.table(TABLE).scan().collect()["final"].all()


def test_a_finished_bar_of_a_feed_replaces_an_unfinished_one(lake, settings):
    lake.table(TABLE).merge(stated([1], close=19.0, final=False, ref="file:1"))
    publish(lake, settings, lambda _: bars([0]), feeds=[StatingFeed(stated([1]))])
    assert closes(lake) == [(0, 10.0), (1, 20.0)]


def test_late_trades_change_exactly_the_bars_that_they_touch(lake, settings):
    def trade(number, minute, price):
        return {
            "venue": "kraken",
            "symbol": "BTC-EUR",
            "ts": START + timedelta(minutes=minute, seconds=number),
            "trade_id": number,
            "price": price,
            "amount": 1.0,
            "source": "vendor_history",
            "source_ref": "file:1",
        }

    def add(*rows):
        frame = pl.DataFrame(list(rows)).with_columns(pl.col("ts").dt.cast_time_unit("us"))
        lake.table("market.trades").merge(frame, on_change="reject")

    def compute(_):
        return bars_from_trades(lake.table("market.trades").scan())

    add(*(trade(n, n % 5, 10.0) for n in range(20)))
    publish(lake, settings, compute)
    before = lake.table(TABLE).scan().collect()
    add(trade(40, 2, 12.0), trade(41, 7, 12.0))
    publish(lake, settings, compute)
    after = lake.table(TABLE).scan().collect()
    changed = after.join(before, on=after.columns, how="anti", nulls_equal=True)
    assert [(time - START) // timedelta(minutes=1) for time in changed["ts"].sort()] == [2, 7]
    assert after.height == 6


# --- repetition, pieces, refusal -----------------------------------------------------------------------------------


def test_running_again_makes_no_version(lake, settings):
    feeds = [StatingFeed(stated([1, 1500]))]
    publish(lake, settings, lambda _: bars(range(2000)), feeds=feeds)
    version = lake.table(TABLE).version()
    again = publish(lake, settings, lambda _: bars(range(2000)), feeds=feeds)
    assert not any(commit.changed for commit in again)
    assert lake.table(TABLE).version() == version


def test_decades_of_sparse_rows_take_a_dozen_pieces(lake, settings):
    asked = []

    def compute(unit):
        asked.append(unit.days)
        return bars([0]).clear()

    publish(lake, settings, compute, days=(date(1990, 1, 1), date(2024, 1, 1)))
    assert asked[0] == (date(1990, 1, 1), date(1990, 2, 1))
    assert len(asked) <= 12
    assert all(before[1] == after[0] for before, after in pairwise(asked))
    assert asked[-1][1] == date(2024, 1, 1)
    assert lake.table(TABLE).version() in (None, 0)


def test_pieces_stay_short_where_rows_are_dense(lake, settings, monkeypatch):
    import importlib

    module = importlib.import_module("hfthot_platform.services.derive.derivation")
    monkeypatch.setattr(module, "SMALL_PIECE_ROWS", 2)
    asked = []

    def compute(unit):
        asked.append(unit.days)
        at = (datetime.combine(unit.days[0], datetime.min.time(), UTC) - START) // timedelta(minutes=1)
        return bars(range(at, at + 3))

    commits = publish(lake, settings, compute, days=(date(2024, 1, 1), date(2024, 4, 3)))
    assert [(b - a).days for a, b in asked] == [31, 31, 31]
    assert [commit.rows_published for commit in commits] == [3, 3, 3]


def test_rejected_rows_of_a_publishable_derivation_are_quarantined_and_counted(lake, settings):
    bad = bars([5]).with_columns(close=pl.lit(-1.0))
    (commit,) = publish(lake, settings, lambda _: pl.concat([bars(range(4)), bad]))
    assert (commit.rows_published, commit.rows_quarantined, commit.rows_read) == (4, 1, 5)
    assert lake.table("quarantine.bars_1m").scan().collect().height == 1


def test_bad_rows_of_a_feed_are_quarantined_too(lake, settings):
    feed = StatingFeed(pl.concat([stated([0, 1, 2]), stated([3]).with_columns(low=pl.lit(float("nan")))]))
    publish(lake, settings, lambda _: bars(range(5)), feeds=[feed])
    assert closes(lake) == [(0, 20.0), (1, 20.0), (2, 20.0), (3, 10.0), (4, 10.0)]
    rejected = lake.table("quarantine.bars_1m").scan().collect()
    assert rejected["source_ref"].to_list() == ["vendor:1"]


def test_too_many_bad_rows_publish_nothing(lake, settings):
    bad = bars(range(4, 10)).with_columns(close=pl.lit(-1.0))
    with pytest.raises(AuditFailedError, match="6 of 10 rows were rejected"):
        publish(lake, settings, lambda _: pl.concat([bars(range(4)), bad]))
    assert lake.table(TABLE).version() is None


def test_a_computation_that_fails_leaves_nothing_behind(lake, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "ROWS_IN_MEMORY", 2)

    def compute(unit):
        if unit.days[0] > date(2024, 1, 1):
            raise ZeroDivisionError
        return bars(range(4))

    with pytest.raises(ZeroDivisionError):
        derive(lake, TABLE, (date(2024, 1, 1), date(2024, 4, 1)), compute, settings=settings)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert lake.table(TABLE).version() is None


def test_closes_taken_from_bars_give_way_to_adjusted_ones(lake, settings):
    def close(value, ref, adjusted):
        return pl.DataFrame(
            {
                "date": [date(2024, 1, 1)],
                "venue": "us_equity",
                "symbol": "AAPL",
                "close": value,
                "adjusted": adjusted,
                "source": "vendor_history",
                "source_ref": ref,
            }
        )

    lake.table("market.closes").merge(close(50.0, "file:1", True))
    publish(lake, settings, lambda _: close(100.0, "market.bars", False), table="market.closes")
    assert lake.table("market.closes").scan().collect()["close"].to_list() == [50.0]
