"""A mistake can be undone: another mapping is another reading, a file's rows can be taken out, a restore is seen."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime

import pytest

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.services.ingest import files as files_module
from hfthot_platform.services.ingest import ingest_files, ingest_landing, withdraw_file
from hfthot_platform.services.ingest.records import days_in_words
from tests.ingest.conftest import NOW, assert_accounted, trades_csv

BARS = "market.bars"
DAY = date(2024, 1, 2)
#: Made when all bars were over: each is final.
KRAKEN = {"venue": "kraken", "symbol": "ETH-USD", "interval": "1h", "as_of": "2024-02-01T00:00:00Z"}


def hours(close: float, count: int = 5, *, utc: int = 0) -> str:
    """Return hourly bars from midnight, written without a zone."""
    lines = [f"2024-01-02 {utc + n:02d}:00:00,{close},{close},{close},{close},1\n" for n in range(count)]
    return "date,open,high,low,close,volume\n" + "".join(lines)


def seen(landing) -> list[tuple[int, float]]:
    return [(ts.hour, close) for ts, close in landing.rows(BARS).sort("ts").select("ts", "close").rows()]


# --- another mapping is another reading ------------------------------------------------------------------------------


def test_a_corrected_mapping_is_taken_in_and_the_reading_before_it_goes(landing):
    landing.drop("eth.csv", hours(10), mapping=KRAKEN)
    landing.run()
    landing.drop("eth.csv", hours(10), mapping={**KRAKEN, "zone": "America/New_York"})
    outcome = landing.run_one()
    assert outcome.status == "published"
    assert [hour for hour, _ in seen(landing)] == [5, 6, 7, 8, 9], "five hours later, in UTC"
    assert (outcome.rows_published, outcome.rows_withdrawn) == (5, 5)
    assert "5 rows withdrawn" in outcome.detail
    versions = landing.lake.table(BARS).versions()
    assert [version.operation for version in versions] == ["CREATE TABLE", "PUBLISH", "PUBLISH"], "both as one commit"
    assert landing.lake.table(BARS).scan(1).collect().height == 5, "what was wrong stays readable"


@pytest.mark.parametrize("other", [{**KRAKEN, "skip_lines": 0}, dict(reversed(KRAKEN.items()))])
def test_a_mapping_that_says_the_same_in_other_words_is_the_same_reading(landing, other):
    landing.drop("eth.csv", hours(10), mapping=KRAKEN)
    landing.run()
    landing.drop("eth.csv", hours(10), mapping=other)
    assert landing.run_one().status == "repeated"


def test_a_corrected_mapping_may_lead_to_another_table(landing):
    lines = hours(10).replace(":00:00,", ":00,")
    landing.drop("eth.csv", lines, mapping={**KRAKEN, "symbol": "ETH-EUR"})
    landing.run()
    landing.drop("eth.csv", lines, mapping={"venue": "kraken", "symbol": "ETH-USD", "interval": "1h"})
    outcome = landing.run_one()
    assert (outcome.table, outcome.rows_withdrawn) == (BARS, 5)
    assert landing.rows(BARS)["symbol"].unique().to_list() == ["ETH-USD"]


def test_a_mapping_that_does_not_work_leaves_the_reading_before_it(landing):
    landing.drop("eth.csv", hours(10), mapping=KRAKEN)
    landing.run()
    landing.drop("eth.csv", hours(10), mapping={**KRAKEN, "time": "%d.%m.%Y"})
    (outcome,) = ingest_landing(landing.lake, landing.folder, now=NOW)
    assert outcome.status == "rejected"
    assert "The rows of the reading before it stay." in outcome.detail
    assert len(seen(landing)) == 5
    assert landing.record("eth.csv")["status"] == "published"
    assert len(landing.lake.table("quarantine.bars").scan().collect()) == 5
    landing.drop("eth.csv", hours(10), mapping={**KRAKEN, "zone": "America/New_York"})
    assert landing.run_one().status == "published"
    assert landing.quarantined(BARS) == {}, "a reading that is good takes the place of all before it"


def test_quarantined_rows_of_a_reading_go_with_it(landing):
    content = hours(10) + "2024-01-02 09:00:00,-1,10,10,10,1\n"
    landing.drop("eth.csv", content, mapping=KRAKEN)
    first = landing.run_one()
    landing.drop("eth.csv", content, mapping={**KRAKEN, "zone": "America/New_York"})
    second = landing.run_one()
    assert (first.rows_quarantined, second.rows_quarantined) == (1, 1)
    kept = landing.lake.table("quarantine.bars").scan().collect()
    assert kept["source_ref"].to_list() == [second.source_ref] != [first.source_ref]


def test_a_run_that_dies_between_two_readings_is_completed(landing, monkeypatch):
    landing.drop("eth.csv", hours(10), mapping=KRAKEN)
    landing.run()
    landing.drop("eth.csv", hours(10), mapping={**KRAKEN, "zone": "America/New_York"})

    class Killed(BaseException):
        pass

    def die(*_arguments):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(files_module, "record_outcomes", die)
        with pytest.raises(Killed):
            ingest_landing(landing.lake, landing.folder, now=NOW)
    outcome = landing.run_one()
    assert (outcome.status, outcome.rows_published) == ("published", 5)
    assert [hour for hour, _ in seen(landing)] == [5, 6, 7, 8, 9]


# --- withdrawing -----------------------------------------------------------------------------------------------------


def test_a_withdrawn_file_leaves_no_row_and_can_be_ingested_again(landing):
    landing.drop("eth.csv", hours(10) + "2024-01-02 09:00:00,-1,10,10,10,1\n", mapping=KRAKEN)
    landing.run()
    outcome = withdraw_file(landing.lake, "eth.csv")
    assert (outcome.status, outcome.rows_withdrawn, outcome.days) == ("withdrawn", 5, {DAY})
    assert seen(landing) == []
    assert landing.quarantined(BARS) == {}
    assert landing.record("eth.csv")["status"] == "withdrawn"
    assert_accounted(landing.lake)
    again = ingest_files(landing.lake, [landing.done / "eth.csv"])
    assert (again[0].status, again[0].rows_published) == ("published", 5)
    assert_accounted(landing.lake)


def test_only_the_rows_of_the_file_go(landing):
    landing.drop("kraken_BTCEUR_1.csv", trades_csv(0, 10), age=60)
    landing.drop("kraken_BTCEUR_2.csv", trades_csv(5, 10), age=50)
    landing.run()
    outcome = withdraw_file(landing.lake, "kraken_BTCEUR_2.csv")
    assert outcome.rows_withdrawn == 5
    assert sorted(landing.rows()["trade_id"]) == list(range(10))


def test_what_a_file_had_taken_the_place_of_comes_back(landing):
    for name, close, count in (("a.csv", 10, 6), ("b.csv", 11, 3), ("c.csv", 12, 2)):
        landing.drop(name, hours(close, count), mapping=KRAKEN)
        ingest_landing(landing.lake, landing.folder, now=NOW)
    assert [close for _, close in seen(landing)] == [12, 12, 11, 10, 10, 10]
    outcome = withdraw_file(landing.lake, "c.csv")
    assert (outcome.rows_withdrawn, outcome.rows_restored) == (2, 2)
    assert [close for _, close in seen(landing)] == [11, 11, 11, 10, 10, 10]


@pytest.mark.soak
def test_what_is_withdrawn_itself_does_not_come_back_but_what_was_before_it_does(landing):
    for name, close, count in (("a.csv", 10, 4), ("b.csv", 11, 3), ("c.csv", 12, 2)):
        landing.drop(name, hours(close, count), mapping=KRAKEN)
        ingest_landing(landing.lake, landing.folder, now=NOW)
    withdraw_file(landing.lake, "b.csv")
    assert [close for _, close in seen(landing)] == [12, 12, 10, 10]
    outcome = withdraw_file(landing.lake, "c.csv")
    assert (outcome.rows_withdrawn, outcome.rows_restored) == (2, 2)
    assert [close for _, close in seen(landing)] == [10, 10, 10, 10]


def test_it_is_said_where_history_does_not_go_back_far_enough(landing):
    from hfthot_platform.storage.lakehouse import maintain

    for name, close in (("a.csv", 10), ("b.csv", 11)):
        landing.drop(name, hours(close), mapping=KRAKEN)
        ingest_landing(landing.lake, landing.folder, now=NOW)
    maintain(landing.lake, BARS, history_days=0)
    outcome = withdraw_file(landing.lake, "b.csv")
    assert (outcome.rows_withdrawn, outcome.rows_restored) == (5, 0)
    assert outcome.detail == (
        "5 rows that it replaced cannot be restored: version 1 of market.bars is no longer readable"
    )


@pytest.mark.soak
def test_a_file_is_meant_by_its_path_its_name_or_its_hash(landing, tmp_path):
    for meant in ("path", "name", "hash"):
        landing.drop("kraken_BTCEUR.csv", trades_csv(0, 3))
        outcome = ingest_landing(landing.lake, landing.folder, now=NOW)[0]
        copy = tmp_path / "copy.csv"
        copy.write_text(trades_csv(0, 3))
        which = {"path": str(copy), "name": "kraken_BTCEUR.csv", "hash": outcome.content_hash[:8]}[meant]
        assert withdraw_file(landing.lake, which).rows_withdrawn == 3
        assert landing.rows().height == 0


def test_a_name_that_means_several_files_lists_them(landing):
    for first in (0, 10):
        landing.drop("kraken_BTCEUR.csv", trades_csv(first, 3))
        landing.run()
    with pytest.raises(BadRequestError, match=r"2 files match: [0-9a-f]{12} market.trades 2024-06-01 12:00; "):
        withdraw_file(landing.lake, "kraken_BTCEUR.csv")
    assert landing.rows().height == 6


def test_a_file_that_is_not_there_is_refused_with_the_nearest_name(landing):
    landing.drop("kraken_BTCEUR.csv", trades_csv(0, 3))
    landing.drop("notes.txt", "nothing\n")
    landing.run()
    with pytest.raises(BadRequestError, match=r"Did you mean 'kraken_BTCEUR.csv'\?"):
        withdraw_file(landing.lake, "kraken_BTCEU.csv")
    with pytest.raises(BadRequestError, match="the file was rejected"):
        withdraw_file(landing.lake, "notes.txt")
    withdraw_file(landing.lake, "kraken_BTCEUR.csv")
    with pytest.raises(BadRequestError, match="the file was withdrawn"):
        withdraw_file(landing.lake, "kraken_BTCEUR.csv")
    for odd in ("x" * 5000, "a\0b", ""):
        with pytest.raises(BadRequestError):
            withdraw_file(landing.lake, odd)


# --- after a restore -------------------------------------------------------------------------------------------------


@pytest.mark.soak
def test_after_a_restore_the_table_decides_what_was_ingested(landing):
    for name, symbol in (("eth.csv", "ETH-USD"), ("xrp.csv", "XRP-USD")):
        landing.drop(name, hours(10, 4 if symbol == "ETH-USD" else 5), mapping={**KRAKEN, "symbol": symbol})
        landing.run()
    table = landing.lake.table(BARS)
    table.restore(1)
    again = {outcome.name: outcome.status for outcome in ingest_files(landing.lake, [landing.done])}
    assert again == {"eth.csv": "repeated", "xrp.csv": "published"}
    assert landing.rows(BARS)["symbol"].value_counts().sort("symbol").rows() == [("ETH-USD", 4), ("XRP-USD", 5)]


def test_a_restore_forwards_is_seen_too(landing):
    landing.drop("eth.csv", hours(10), mapping=KRAKEN)
    landing.run()
    table = landing.lake.table(BARS)
    table.restore(0)
    table.restore(1)
    assert ingest_files(landing.lake, [landing.done / "eth.csv"])[0].status == "repeated"


def test_a_file_whose_rows_all_gave_way_is_not_taken_in_again(landing):
    """Or an old statement of a vendor would come back above the correction of it."""
    for name, close in (("a.csv", 10), ("b.csv", 11)):
        landing.drop(name, hours(close), mapping=KRAKEN)
        ingest_landing(landing.lake, landing.folder, now=NOW)
    assert ingest_files(landing.lake, [landing.done / "a.csv"])[0].status == "repeated"
    assert [close for _, close in seen(landing)] == [11] * 5


def test_a_file_of_nothing_new_is_needed_after_a_restore_that_took_what_it_repeats(landing):
    landing.drop("kraken_BTCEUR.csv", trades_csv(0, 10))
    landing.run()
    landing.drop("kraken_BTCEUR_part.csv", trades_csv(2, 3))
    landing.run()
    landing.lake.table("market.trades").restore(0)
    outcome = ingest_files(landing.lake, [landing.done / "kraken_BTCEUR_part.csv"])[0]
    assert (outcome.status, outcome.rows_published) == ("published", 3)


def test_a_table_that_is_gone_has_no_file(landing):
    import shutil
    from pathlib import Path

    landing.drop("eth.csv", hours(10), mapping=KRAKEN)
    landing.run()
    shutil.rmtree(Path(landing.lake.table(BARS).uri))
    assert ingest_files(landing.lake, [landing.done / "eth.csv"])[0].status == "published"


# --- the account beside a rejected file ------------------------------------------------------------------------------


def test_the_reason_beside_a_rejected_file_has_rules_first_rows_and_the_query(landing, line_of):
    lines = "".join(line_of(n, price=-1) for n in range(8)) + line_of(8, price="abc")
    landing.drop("kraken_BTCEUR.csv", trades_csv(100, 2) + lines)
    landing.run()
    reason = landing.reason("kraken_BTCEUR.csv")
    assert [(rejection["reason"], rejection["rows"]) for rejection in reason["rejections"]] == [
        ("out_of_bounds", 8),
        ("unparsable_value", 1),
    ]
    worst = reason["rejections"][0]
    assert "price" in worst["rule"]
    assert [row["row_number"] for row in worst["first"]] == [3, 4, 5]
    assert json.loads(worst["first"][0]["row"])["price"] == "-1.0"
    assert reason["query"].startswith("SELECT reason, detail, row_number, row FROM quarantine.trades WHERE")

    from hfthot_platform.services.sql import query

    found = query(landing.lake, reason["query"])
    assert found.frame.height == 11


def test_days_are_recorded_as_ranges():
    days = [date(2024, 1, 5), *(date(2024, 2, day) for day in (28, 29)), date(2024, 3, 1)]
    assert days_in_words(days) == "2024-01-05 2024-02-28..2024-03-01"
    assert days_in_words([]) == ""
    assert datetime(2024, 1, 1, tzinfo=UTC).date() not in days
