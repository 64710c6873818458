"""What a list of paths can hold: each thing has an outcome, and none stops the others."""

from __future__ import annotations

import io
import os
import zipfile

import polars as pl
import pytest

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.services.ingest import files as files_module
from hfthot_platform.services.ingest import ingest_files, ingest_landing, withdraw_file
from hfthot_platform.storage.lakehouse.locks import writers_lock
from tests.ingest.conftest import HEADER, NOW, assert_accounted, trade_line, trades_csv


def archive(**members: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, text in members.items():
            # Without a time of its own, the same content would be another file two seconds later.
            packed.writestr(zipfile.ZipInfo(name.replace("__", ".")), text)
    return buffer.getvalue()


def reasons(outcomes) -> dict[str, str | None]:
    return {outcome.name: outcome.reason for outcome in outcomes}


def test_everything_in_a_folder_has_an_outcome(landing, tmp_path):
    folder = tmp_path / "given"
    (folder / "sub.csv").mkdir(parents=True)
    (folder / "sub.csv" / "kraken_BTCEUR.csv").write_text(trades_csv(0, 3))
    (folder / "empty.csv").write_text("")
    (folder / "dangling.csv").symlink_to(tmp_path / "nowhere")
    (folder / "linked_kraken_ETHEUR.csv").symlink_to(tmp_path / "real.csv")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.csv")
    (tmp_path / "real.csv").write_text(trades_csv(50, 3))
    (folder / "mapping.yaml").write_text("venue: kraken\nsymbol: BTC-EUR\n")
    outcomes = ingest_files(landing.lake, [folder])
    assert reasons(outcomes) == {
        "dangling.csv": "dangling_link",
        "empty.csv": "empty",
        "linked_kraken_ETHEUR.csv": None,
        "pipe.csv": "not_a_file",
        "kraken_BTCEUR.csv": None,
    }
    assert_accounted(landing.lake)


def test_a_file_that_is_named_several_times_is_taken_in_once(landing, tmp_path):
    path = tmp_path / "kraken_BTCEUR.csv"
    path.write_text(trades_csv(0, 3))
    outcomes = ingest_files(landing.lake, [path, tmp_path, path])
    assert [outcome.status for outcome in outcomes if outcome.name == path.name] == ["published"]


def test_a_file_that_vanishes_meanwhile_is_told_and_stops_nobody(landing, tmp_path):
    for number in (1, 2, 3):
        (tmp_path / f"kraken_BTCEUR_{number}.csv").write_text(trades_csv(number * 10, 3))
    paths = [tmp_path / f"kraken_BTCEUR_{number}.csv" for number in (1, 2, 3)]
    outcomes = ingest_files(landing.lake, paths, on_outcome=lambda _: paths[1].unlink(missing_ok=True))
    assert [(outcome.status, outcome.reason) for outcome in outcomes] == [
        ("published", None),
        ("rejected", "vanished"),
        ("published", None),
    ]


def test_a_file_that_grows_or_shrinks_while_it_is_read_publishes_nothing(landing, tmp_path):
    path = tmp_path / "kraken_BTCEUR.csv"
    for change in (lambda: path.write_text(trades_csv(0, 11)), lambda: os.truncate(path, 40), path.unlink):
        path.write_text(trades_csv(0, 10))
        done = []

        def meddle(*_told, change=change, done=done):
            if not done:
                done.append(change())

        (outcome,) = ingest_files(landing.lake, [path], progress=meddle)
        assert (outcome.status, outcome.rows_published) == ("rejected", 0)
        assert outcome.reason in {"changed_while_read", "vanished"}
        assert landing.rows().height == 0
        assert landing.lake.table("quarantine.trades").scan().collect().height == 0


def test_a_failure_in_one_file_is_an_incident_and_the_others_go_on(landing, tmp_path):
    for number in (1, 2):
        (tmp_path / f"kraken_BTCEUR_{number}.csv").write_text(trades_csv(number * 10, 2 + number))

    def fails(done, total, unit):
        if done == 3 and unit == "rows":
            raise RuntimeError("ada@analytical.example")

    outcomes = ingest_files(landing.lake, [tmp_path / "kraken_BTCEUR_1.csv", tmp_path], progress=fails)
    assert reasons(outcomes) == {"kraken_BTCEUR_1.csv": "unexpected_error", "kraken_BTCEUR_2.csv": None}
    (incident,) = landing.lake.table("ops.incidents").scan().collect().rows(named=True)
    assert (incident["kind"], incident["severity"]) == ("file_rejected", "error")
    assert "RuntimeError" in incident["message"]
    assert "analytical" not in f"{incident}"


def test_a_path_that_is_not_there_is_refused_before_anything_is_taken_in(landing, tmp_path):
    (tmp_path / "kraken_BTCEUR.csv").write_text(trades_csv(0, 3))
    with pytest.raises(BadRequestError, match="no such file or folder"):
        ingest_files(landing.lake, [tmp_path / "kraken_BTCEUR.csv", tmp_path / "kraken_BTCEU.csv"])
    assert landing.lake.table("market.trades").scan().collect().height == 0 if landing.lake.exists() else True


# --- archives of several files ---------------------------------------------------------------------------------------


def test_mappings_among_the_named_files_are_read_with_what_they_describe(landing, tmp_path):
    (tmp_path / "mine.csv").write_text("1709510400,100,1\n1709510460,101,2\n")
    (tmp_path / "mine.csv.mapping.yaml").write_text("{symbol: BTC-EUR, columns: [ts, price, amount], time: s}")
    (tmp_path / "mapping.yaml").write_text("venue: kraken")

    outcomes = ingest_files(landing.lake, sorted(tmp_path.glob("m*")))

    assert reasons(outcomes) == {"mine.csv": None}
    with pytest.raises(BadRequestError, match="a mapping holds no rows"):
        ingest_files(landing.lake, [tmp_path / "mapping.yaml"])


def test_the_files_of_an_archive_are_judged_together(landing):
    bad = HEADER + "".join(trade_line(n, price=-1) for n in range(100, 130))
    landing.drop(
        "kraken_BTCEUR.zip",
        archive(kraken_BTCEUR_a__csv=trades_csv(0, 10), kraken_BTCEUR_b__csv=bad),
        mapping={"venue": "kraken", "symbol": "BTC-EUR"},
    )
    outcome = landing.run_one()
    assert (outcome.reason, outcome.rows_read, outcome.rows_published) == ("too_many_bad_rows", 40, 0)
    assert landing.rows().height == 0


def test_what_is_no_market_data_in_an_archive_is_left_out_and_named(landing):
    members = {"a__csv": trades_csv(0, 10), "read_me__txt": "Thank you for buying.\n"}
    landing.drop("kraken.zip", archive(**members), mapping={"venue": "kraken", "symbol": "BTC-EUR"})
    outcome = landing.run_one()
    assert (outcome.status, outcome.rows_published) == ("published", 10)
    assert outcome.detail == "left out of the archive: read_me.txt"


# --- archives for several tables -------------------------------------------------------------------------------------

BEGIN = 1_704_067_200


def kraken_bars(minutes: int, count: int = 3, *, close: float = 10, volume: float = 1) -> str:
    """Return bars as Kraken's archives have them, without a header."""
    return "".join(f"{BEGIN + n * 60 * minutes},10,11,9,{close},{volume},5\n" for n in range(count))


def of_two_tables(*, hourly: str | None = None) -> bytes:
    return archive(XBTEUR_1__csv=kraken_bars(1, 5), XBTEUR_60__csv=hourly or kraken_bars(60))


def counts(outcomes) -> dict[str, tuple[str, int]]:
    return {outcome.table: (outcome.status, outcome.rows_published) for outcome in outcomes}


def test_an_archive_for_two_tables_has_an_outcome_and_a_commit_for_each(landing):
    landing.drop("kraken.zip", of_two_tables())
    outcomes = landing.run()
    assert counts(outcomes) == {"market.bars": ("published", 3), "market.bars_1m": ("published", 5)}
    assert landing.rows("market.bars")["interval"].unique().to_list() == ["1h"]
    for table in ("market.bars", "market.bars_1m"):
        assert [version.operation for version in landing.lake.table(table).versions()] == ["CREATE TABLE", "PUBLISH"]
    assert {file.name for file in landing.done.iterdir()} == {"kraken.zip"}
    again = ingest_files(landing.lake, [landing.done / "kraken.zip"])
    assert [(outcome.status, outcome.table) for outcome in again] == [
        ("repeated", "market.bars"),
        ("repeated", "market.bars_1m"),
    ]


def test_a_bad_member_keeps_the_rows_of_all_tables_out(landing):
    landing.drop("kraken.zip", of_two_tables(hourly=kraken_bars(60, volume=-1)))
    outcomes = landing.run()
    assert {outcome.reason for outcome in outcomes} == {"too_many_bad_rows"}
    assert landing.rows("market.bars_1m").height == 0
    assert landing.quarantined("market.bars_1m") == {"withheld": 5}
    assert [told["table"] for told in landing.reason("kraken.zip")["tables"]] == ["market.bars", "market.bars_1m"]


def test_a_member_of_numbers_in_no_known_form_refuses_the_archive(landing):
    landing.drop("kraken.zip", of_two_tables(hourly=kraken_bars(60, close=99)))
    outcome = landing.run_one()
    assert outcome.reason == "wrong_schema"
    assert "XBTEUR_60.csv: the file is a table of numbers in an unknown format" in outcome.detail


def test_a_withdrawn_archive_leaves_no_row_in_any_table(landing):
    landing.drop("kraken.zip", of_two_tables())
    landing.run()
    outcome = withdraw_file(landing.lake, "kraken.zip")
    assert (outcome.table, outcome.rows_withdrawn) == ("market.bars, market.bars_1m", 8)
    assert landing.rows("market.bars").height == landing.rows("market.bars_1m").height == 0
    assert_accounted(landing.lake)


def test_a_corrected_mapping_of_an_archive_may_lead_to_fewer_tables(landing):
    landing.drop("kraken.zip", of_two_tables())
    landing.run()
    landing.drop("kraken.zip", of_two_tables(), mapping={"members": "*_60.csv"})
    (outcome,) = landing.run()
    assert (outcome.table, outcome.rows_published, outcome.rows_withdrawn) == ("market.bars", 3, 8)
    assert "left out of the archive: XBTEUR_1.csv" in outcome.detail
    assert landing.rows("market.bars_1m").height == 0


class Killed(BaseException):
    """Stands for the end of the process."""


def killed_between_the_tables(landing, monkeypatch) -> None:
    merge, done = files_module.Staging.merge, []

    def first_only(*arguments, **named):
        if done:
            raise Killed
        done.append(merge(*arguments, **named))
        return done[0]

    with monkeypatch.context() as patch:
        patch.setattr(files_module.Staging, "merge", first_only)
        with pytest.raises(Killed):
            ingest_landing(landing.lake, landing.folder, now=NOW)
    assert landing.rows("market.bars").height == 3
    assert landing.lake.table("market.bars_1m").version() is None


def test_a_run_that_is_killed_between_the_tables_is_taken_back_and_the_file_ingested_whole(landing, monkeypatch):
    landing.drop("kraken.zip", of_two_tables())
    killed_between_the_tables(landing, monkeypatch)
    outcomes = landing.run()
    assert counts(outcomes) == {"market.bars": ("published", 3), "market.bars_1m": ("published", 5)}
    assert landing.waiting() == set()


def test_what_a_killed_run_has_published_of_a_file_that_never_comes_again_is_taken_out(landing, monkeypatch):
    path = landing.drop("kraken.zip", of_two_tables())
    killed_between_the_tables(landing, monkeypatch)
    path.unlink()
    landing.drop("kraken_BTCEUR.csv", trades_csv(0, 3))
    landing.run()
    assert landing.rows("market.bars").height == 0
    states = landing.lake.table("ops.ingest_files").scan().collect().filter(pl.col("name") == "kraken.zip")
    assert set(states["status"]) == {"withdrawn"}
    assert set(states["reason"]) == {"interrupted"}


def test_a_run_that_is_at_work_is_left_alone(landing, monkeypatch):
    path = landing.drop("kraken.zip", of_two_tables())
    killed_between_the_tables(landing, monkeypatch)
    path.unlink()
    with writers_lock(files_module.publishing_lock(landing.lake), exclusive=False):
        ingest_landing(landing.lake, landing.folder, now=NOW)
    assert landing.rows("market.bars").height == 3


def test_a_killed_reading_that_was_to_take_the_place_of_another_leaves_neither(landing, monkeypatch):
    landing.drop("kraken.zip", of_two_tables())
    landing.run()
    path = landing.drop("kraken.zip", of_two_tables(), mapping={"zone": "UTC"})
    merge, done = files_module.Staging.merge, []

    def dies(*arguments, **named):
        done.append(1)
        if len(done) == 2:
            raise Killed
        return merge(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(files_module.Staging, "merge", dies)
        with pytest.raises(Killed):
            ingest_landing(landing.lake, landing.folder, now=NOW)
    content = path.read_bytes()
    path.unlink()
    landing.run()
    assert landing.rows("market.bars").height == landing.rows("market.bars_1m").height == 0
    landing.drop("kraken.zip", content)
    assert counts(landing.run()) == {"market.bars": ("published", 3), "market.bars_1m": ("published", 5)}


def test_a_member_that_is_refused_is_named_with_the_way_to_leave_it_out(landing):
    odd = archive(XBTEUR_60__csv=kraken_bars(60), NOPE_60__csv=kraken_bars(60))
    landing.drop("kraken.zip", odd)
    outcome = landing.run_one()
    assert outcome.reason == "unknown_symbol"
    assert "NOPE_60.csv: " in outcome.detail
    assert '`members: "!NOPE_60.csv"` in kraken.zip.mapping.yaml' in outcome.detail
    landing.drop("kraken.zip", odd, mapping={"members": ["!NOPE_*"]})
    assert landing.run_one().rows_published == 3


def test_members_that_match_nothing_are_told(landing):
    landing.drop("kraken.zip", of_two_tables(), mapping={"members": "*_5.csv"})
    outcome = landing.run_one()
    assert (outcome.reason, outcome.status) == ("left_out", "rejected")


def test_the_directory_of_an_archive_is_read_once_for_all_its_members(landing, monkeypatch):
    opened = []
    begin = zipfile.ZipFile.__init__

    def counted(self, *arguments, **named):
        opened.append(1)
        begin(self, *arguments, **named)

    inner = archive(**{f"A{n}/XBTEUR_60__csv": kraken_bars(60, 2 + n) for n in range(12)})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("inner.zip", inner)
    landing.drop("kraken.zip", buffer.getvalue())
    monkeypatch.setattr(zipfile.ZipFile, "__init__", counted)
    (outcome,) = ingest_landing(landing.lake, landing.folder, now=NOW)
    assert outcome.rows_published == 13
    assert len(opened) < 8


# --- files of persons in the wrong place -----------------------------------------------------------------------------

PERSON = '{"event_id": "e1", "type": "registration", "username": "ada", "email": "ada@analytical.example"}\n'


def parquet() -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame({"event_id": ["e1"], "type": ["login"], "username": ["ada"]}).write_parquet(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [PERSON.encode(), b"username,Email\nada,ada@analytical.example\n", parquet(), archive(events__jsonl=PERSON)],
    ids=["json", "csv", "parquet", "zip"],
)
def test_a_file_of_persons_in_the_market_folder_is_put_away_without_name_or_content(landing, content):
    landing.drop("ada_lovelace.csv", content)
    outcome = landing.run_one()
    assert (outcome.status, outcome.reason) == ("rejected", "personal_data")
    assert landing.waiting() == set()
    assert list(landing.rejected.iterdir()) == []
    kept = landing.folder / "users" / "rejected"
    assert [file.name for file in kept.iterdir()] == [outcome.name]
    assert outcome.name.startswith("personal_data-")
    for table in ("ops.ingest_files", "ops.incidents"):
        told = f"{landing.lake.table(table).scan().collect().rows()}{outcome}"
        assert "lovelace" not in told.lower()
        assert "analytical" not in told


def test_of_what_no_adapter_knows_neither_content_nor_an_address_is_recorded(landing):
    landing.drop("ada@analytical.example.txt", "Ada Lovelace, born in London\n")
    outcome = landing.run_one()
    assert outcome.reason == "unrecognised"
    record = landing.lake.table("ops.ingest_files").scan().collect().row(0, named=True)
    assert "Lovelace" not in f"{record}"
    assert "ada@" not in f"{record}"
    assert record["ingested_at"] == NOW
