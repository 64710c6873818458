"""The `hfthot` command line: what each command prints, refuses and exits with."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import psutil
import pytest
from typer.testing import CliRunner

from hfthot_platform.core.version import __version__
from hfthot_platform.interfaces.cli import app, output
from hfthot_platform.storage.lakehouse import Lakehouse

FEEDS = json.dumps([{"kind": "sample"}, {"kind": "simulated", "trades_per_day": 50}])
COMMANDS = (
    "demo",
    "ingest",
    "withdraw",
    "sql",
    "tables",
    "describe",
    "history",
    "check",
    "restore",
    "maintain",
    "doctor",
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    """A lake with two days of trades of the simulated exchange, ingested through the command line."""
    folder = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HFTHOT_FEEDS", FEEDS)
        patch.setenv("HFTHOT_SCRATCH", str(folder / "scratch"))
        for day in ("2024-01-01", "2024-01-02"):
            fetch = ["ingest", "--feed", "simulated", "--table", "market.trades", "--from", day]
            done = CliRunner().invoke(app, ["--lake", str(folder / "lake"), *fetch])
            assert done.exit_code == 0, done.output
    return folder / "lake"


@pytest.fixture
def hfthot(filled, tmp_path, monkeypatch):
    """Run a command on the filled lake, which it must not change, or on another one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HFTHOT_FEEDS", FEEDS)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)

    def run(*arguments: str, lake: Path = filled, stdin: str | None = None):
        return CliRunner().invoke(app, ["--lake", str(lake), *arguments], input=stdin)

    return run


@pytest.fixture
def own(filled, tmp_path) -> Path:
    """A copy of the filled lake, for commands that write."""
    return Path(shutil.copytree(filled, tmp_path / "lake"))


def rows_in(lake: Path) -> int:
    return int(Lakehouse.open(lake).table("market.trades").scan().select(pl.len()).collect().item())


# -- the root -----------------------------------------------------------------------------------------------------


def test_help_lists_every_command(hfthot):
    result = hfthot("--help")

    assert result.exit_code == 0
    assert all(command in result.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(hfthot, command):
    result = hfthot(command, "--help")

    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom hfthot_platform.interfaces.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'polars', 'deltalake', 'duckdb', 'pyarrow', 'dagster', 'pandas', 'numpy', 'pydantic_settings'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_version(hfthot):
    assert hfthot("--version").stdout.strip() == f"hfthot {__version__}"


def test_an_unknown_command_is_a_usage_error(hfthot):
    result = hfthot("tabels")

    assert result.exit_code == 2
    assert "No such command" in result.stderr


def test_an_error_is_one_line_and_a_hint_and_no_traceback(hfthot):
    result = hfthot("describe", "market.trade")

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == ["Error: unknown table 'market.trade'", "Did you mean 'market.trades'?"]


def test_debug_shows_where_an_error_comes_from(filled):
    result = CliRunner().invoke(app, ["--lake", str(filled), "--debug", "describe", "market.trade"])

    assert type(result.exception).__name__ == "UnknownTableError"


def test_an_unexpected_error_is_one_line_too(hfthot, monkeypatch):
    def broken(*_arguments, **_options):
        raise RuntimeError("a secret")

    monkeypatch.setattr(Lakehouse, "tables", broken)
    result = hfthot("tables")

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: unexpected RuntimeError\n")
    assert "--debug" in result.stderr


def test_a_malformed_setting_is_named_without_its_value(hfthot, monkeypatch):
    monkeypatch.setenv("HFTHOT_DUCKDB_THREADS", "many-secret")
    result = hfthot("tables")

    assert result.exit_code == 2
    assert "duckdb_threads" in result.stderr
    assert "many-secret" not in result.stderr


def test_the_real_program_prints_plainly_into_a_pipe(filled, tmp_path):
    program = Path(sys.executable).with_name("hfthot")
    done = subprocess.run(
        [program, "--lake", filled, "sql", "SELECT count(*) AS trades FROM market.trades"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )

    assert (done.returncode, done.stdout.split()) == (0, ["trades", str(rows_in(filled))])
    assert "\x1b" not in done.stdout + done.stderr


# -- tables, describe, history ---------------------------------------------------------------------------------


def test_tables_lists_rows_from_the_log(hfthot, filled):
    result = hfthot("tables")

    (line,) = [line for line in result.stdout.splitlines() if line.startswith("market.trades ")]
    assert line.split()[1] == str(rows_in(filled))
    assert re.search(r"2024-01-02 23:\d\d:\d\d$", line)


def test_tables_as_json_has_every_figure(hfthot, filled):
    rows = {table["table"]: table for table in json.loads(hfthot("tables", "--json").stdout)}

    trades = rows["market.trades"]
    assert trades["rows"] == rows_in(filled)
    assert trades["bytes"] > 0
    assert trades["version"] == Lakehouse.open(filled).table("market.trades").version()
    assert trades["last_event"].startswith("2024-01-02T23:")
    assert rows["market.bars"]["rows"] is None


def test_tables_shows_quarantines_on_request(hfthot):
    assert "quarantine.trades" not in hfthot("tables").stdout
    assert "quarantine.trades" in hfthot("tables", "--all").stdout


def test_tables_marks_a_damaged_table_and_lists_the_others(hfthot, own):
    next((own / "market" / "trades").glob("date=*/*.parquet")).unlink()

    result = hfthot("tables", lake=own)

    assert result.exit_code == 0
    assert re.search(r"market\.trades +damaged", result.stdout)
    assert "market.bars_1m" in result.stdout


def test_describe_shows_columns_units_rules_and_size(hfthot, filled):
    printed = hfthot("describe", "market.trades").stdout

    assert re.search(r"price +float64 +quote per base", printed)
    assert "Key: symbol, venue, trade_id" in printed
    assert "partitioned by date" in printed
    assert "0 < price <= 1e+09" in printed
    assert f"{rows_in(filled)} rows" in printed


def test_describe_as_json(hfthot, filled):
    described = json.loads(hfthot("describe", "market.trades", "--json").stdout)

    assert described["primary_key"] == ["symbol", "venue", "trade_id"]
    assert described["rows"] == rows_in(filled)
    assert {"name": "price", "unit": "quote per base"}.items() <= described["columns"][5].items()


def test_describe_knows_views_and_tables_nobody_wrote(hfthot):
    assert "An SQL view of market.bars_1m" in hfthot("describe", "market.ohlcv").stdout
    assert json.loads(hfthot("describe", "market.ohlcv", "--json").stdout)["columns"][0]["name"] == "ts"
    assert "nothing has been written yet" in hfthot("describe", "market.closes").stdout


def test_history_shows_newest_first_with_run_and_readability(hfthot, filled):
    versions = json.loads(hfthot("history", "market.trades", "--json").stdout)

    assert [version["version"] for version in versions] == sorted(
        (version["version"] for version in versions), reverse=True
    )
    assert versions[0]["run_id"].startswith("cli-ingest-")
    assert all(version["readable"] for version in versions)
    assert sum(version["rows"] or 0 for version in versions) == rows_in(filled)


def test_history_says_how_many_older_versions_there_are(hfthot):
    result = hfthot("history", "market.trades", "--limit", "1")

    assert len(result.stdout.splitlines()) == 2
    assert "2 older versions" in result.stderr


def test_history_of_a_table_nobody_wrote(hfthot):
    assert "nothing has been written yet" in hfthot("history", "market.closes").stdout


@pytest.mark.parametrize("command", ["describe", "history", "check"])
def test_an_unknown_table_is_refused_with_a_suggestion(hfthot, command):
    result = hfthot(command, "market.trads")

    assert result.exit_code == 2
    assert "Did you mean 'market.trades'?" in result.stderr


# -- check, restore, maintain ----------------------------------------------------------------------------------


def test_check_passes_on_what_was_ingested(hfthot):
    result = hfthot("check", "market.trades", "--json")

    outcomes = {outcome["check"]: outcome for outcome in json.loads(result.stdout)}
    assert result.exit_code == 0
    assert all(outcome["passed"] for outcome in outcomes.values() if outcome["severity"] == "error")
    assert {"files", "values", "unique_key"} <= set(outcomes)


def test_check_of_some_days_looks_at_those_alone(hfthot):
    result = hfthot("check", "market.trades", "--from", "2024-01-01", "--to", "2024-01-02", "--json")

    values = next(outcome for outcome in json.loads(result.stdout) if outcome["check"] == "values")
    whole = next(
        outcome
        for outcome in json.loads(hfthot("check", "market.trades", "--json").stdout)
        if outcome["check"] == "values"
    )
    assert 0 < values["observed"]["rows"] < whole["observed"]["rows"]


def test_check_fails_on_a_missing_file(hfthot, own):
    victim = next((own / "market" / "trades").glob("date=*/*.parquet"))
    victim.unlink()

    result = hfthot("check", "market.trades", lake=own)

    assert result.exit_code == 1
    assert victim.name in result.stdout


@pytest.mark.parametrize("days", [("--from", "2024-01-01"), ("--from", "2024-01-02", "--to", "2024-01-01")])
def test_check_refuses_half_a_span_and_an_empty_one(hfthot, days):
    assert hfthot("check", "market.trades", *days).exit_code == 2


def test_restore_makes_an_older_version_current_again(hfthot, own):
    history = Lakehouse.open(own).table("market.trades").versions()

    result = hfthot("restore", "market.trades", "1", lake=own)

    assert result.stdout.strip() == f"market.trades: version 1 is current again, as version {history[-1].version + 1}"
    assert rows_in(own) == history[1].rows


@pytest.mark.parametrize(("version", "code"), [("99", 1), ("-1", 2), ("last", 2)])
def test_restore_refuses_what_cannot_be_read(hfthot, own, version, code):
    result = hfthot("restore", "market.trades", "--", version, lake=own)

    assert result.exit_code == code
    if version == "99":
        assert "Readable: version 0" in result.stderr


def test_maintain_reports_before_and_after_for_every_written_table(hfthot, own):
    result = hfthot("maintain", "--history-days", "0", "--json", lake=own)

    (report,) = json.loads(result.stdout)
    assert report["table"] == "market.trades"
    assert report["files_before"] > 0
    assert rows_in(own) > 0


def test_maintain_prints_a_table_for_people(hfthot, own):
    printed = hfthot("maintain", "market.trades", lake=own).stdout

    assert printed.splitlines()[0].startswith("table ")
    assert "size before" in printed


def test_maintain_of_a_lake_without_our_tables_has_nothing_to_do(hfthot, tmp_path):
    (tmp_path / "none" / "other" / "table" / "_delta_log").mkdir(parents=True)

    assert "nothing to maintain" in hfthot("maintain", lake=tmp_path / "none").stdout


def test_maintain_refuses_an_unknown_table_before_touching_any(hfthot, own):
    before = Lakehouse.open(own).table("market.trades").version()

    assert hfthot("maintain", "market.trades", "market.nothing", lake=own).exit_code == 2
    assert Lakehouse.open(own).table("market.trades").version() == before


# -- sql --------------------------------------------------------------------------------------------------------


def test_sql_prints_rows_and_what_was_read(hfthot):
    result = hfthot("sql", "SELECT symbol, count(*) AS n FROM market.trades GROUP BY 1 ORDER BY 1")

    assert result.stdout.splitlines()[0].split() == ["symbol", "n"]
    assert len(result.stdout.splitlines()) == 4
    assert "3 rows from market.trades version" in result.stderr


def test_sql_says_how_many_more_rows_there_are(hfthot, filled):
    result = hfthot("sql", "FROM market.trades", "--limit", "10")

    assert len(result.stdout.splitlines()) == 12
    assert f"... {rows_in(filled) - 10} more rows" in result.stdout


def test_sql_reads_the_statement_from_stdin(hfthot):
    assert hfthot("sql", stdin="SELECT 42 AS answer").stdout.split() == ["answer", "42"]


def test_sql_as_json_is_one_array_with_iso_times(hfthot):
    sql = "SELECT ts, date, 'NaN'::DOUBLE AS nan, [1, 2] AS l, NULL AS n FROM market.trades ORDER BY ts LIMIT 2"

    rows = json.loads(hfthot("sql", sql, "--json").stdout)

    assert len(rows) == 2
    assert rows[0] | {"ts": None} == {"ts": None, "date": "2024-01-01", "nan": None, "l": [1, 2], "n": None}
    assert re.fullmatch(r"2024-01-01T\d\d:\d\d:\d\d(\.\d+)?\+00:00", rows[0]["ts"])


def test_sql_as_json_without_rows_is_an_empty_array(hfthot):
    assert json.loads(hfthot("sql", "SELECT 1 FROM market.trades WHERE false", "--json").stdout) == []


def test_sql_as_csv_can_be_read_back(hfthot, filled):
    printed = hfthot("sql", "SELECT *, [1] AS l FROM market.trades ORDER BY trade_id", "--format", "csv").stdout

    assert pl.read_csv(io.StringIO(printed)).height == rows_in(filled)


def test_sql_as_csv_has_the_values_as_they_are_unless_a_spreadsheet_is_to_open_them(hfthot, filled, tmp_path):
    statement = "SELECT '=1+1' AS a, -1 AS b, '-x' AS c FROM market.trades LIMIT 1"
    target = tmp_path / "out.csv"

    assert hfthot("sql", statement, "--format", "csv").stdout.splitlines()[1] == "=1+1,-1,-x"
    assert hfthot("sql", statement, "--format", "csv", "--spreadsheet").stdout.splitlines()[1] == "'=1+1,-1,'-x"
    hfthot("sql", statement, "--output", str(target), "--spreadsheet")
    assert target.read_text().splitlines()[1] == "'=1+1,-1,'-x"
    assert hfthot("sql", statement, "--format", "json", "--spreadsheet").exit_code == 2


@pytest.mark.parametrize("ending", ["csv", "json", "parquet", "txt"])
def test_sql_writes_a_file_in_the_format_of_its_ending(hfthot, tmp_path, filled, ending):
    target = tmp_path / f"out.{ending}"

    result = hfthot("sql", "FROM market.trades", "--output", str(target))

    assert result.exit_code == 0
    readers = {"csv": pl.read_csv, "json": pl.read_json, "parquet": pl.read_parquet}
    if ending in readers:
        assert readers[ending](target).height == rows_in(filled)
    assert result.stdout == ""
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_sql_writes_parquet_with_the_types_of_the_contract(hfthot, tmp_path, filled):
    hfthot("sql", "FROM market.trades", "--output", str(tmp_path / "t.parquet"))

    contract = Lakehouse.open(filled).table("market.trades").contract
    assert pl.read_parquet_schema(tmp_path / "t.parquet") == contract.polars_schema


def test_sql_reads_a_version_and_a_time(hfthot, filled):
    first = Lakehouse.open(filled).table("market.trades").versions()[1]
    count = "SELECT count(*) AS n FROM market.trades"

    by_version = hfthot("sql", count, "--version-of", "market.trades=1", "--json")
    by_time = hfthot("sql", count, "--as-of", first.timestamp.isoformat(), "--json")
    by_number = hfthot("sql", count, "--at-version", "1", "--json")

    assert json.loads(by_version.stdout) == json.loads(by_time.stdout) == [{"n": first.rows}]
    assert json.loads(by_number.stdout) == [{"n": first.rows}]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["SELECT * FROM market.trade"], "Did you mean 'market.trades'?"),
        (["SELECT prize FROM market.trades"], "Did you mean 'price'?"),
        (["SELEC 1"], "syntax error"),
        (["DROP VIEW market.trades"], "SQL is read-only here"),
        (["SELECT 1", "--at-version", "market.trades"], "is neither N nor TABLE=N"),
        (["SELECT 1", "--at-version", "1"], "names no table"),
        (["SELECT 1", "--version-of", "market.trades=1"], "does not name"),
        (["SELECT 1", "--as-of", "yesterday"], "is not a time"),
        (["SELECT 1", "--format", "parquet"], "--output"),
        (["SELECT 1", "--format", "xml"], "xml"),
        (["SELECT 1", "--output", "x.doc"], "is not a known format"),
    ],
)
def test_sql_refuses_with_the_reason(hfthot, arguments, says):
    result = hfthot("sql", *arguments)

    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments", [["--version-of", "market.trades=99"], ["--as-of", "2001-01-01"], ["--output", "none/x.csv"]]
)
def test_sql_fails_with_the_reason_where_the_request_cannot_be_met(hfthot, arguments):
    result = hfthot("sql", "FROM market.trades", *arguments)

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")


def test_sql_that_fails_leaves_an_older_file_as_it_was(hfthot, tmp_path):
    target = tmp_path / "out.csv"
    target.write_text("old")

    result = hfthot(
        "sql", "SELECT CASE WHEN range > 500000 THEN error('stop') END FROM range(600000)", "-o", str(target)
    )

    assert result.exit_code == 2
    assert target.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.endswith(".partial")] == []


@pytest.mark.soak
def test_sql_stops_at_once_on_ctrl_c_and_leaves_no_spill_folder(filled, tmp_path):
    program = Path(sys.executable).with_name("hfthot")
    endless = "SELECT sum(a.range * b.range) FROM range(3000000) a, range(3000000) b"
    scratch = tmp_path / "data" / "scratch"
    with subprocess.Popen([program, "--lake", filled, "sql", endless], cwd=tmp_path, stderr=subprocess.PIPE) as running:
        # The spill folder appears just before the statement runs; then nothing but the statement takes time.
        process, before = psutil.Process(running.pid), None
        while running.poll() is None and (before is None or process.cpu_times().user < before + 0.5):
            time.sleep(0.05)
            if before is None and scratch.is_dir() and any(scratch.iterdir()):
                before = process.cpu_times().user
        running.send_signal(signal.SIGINT)
        try:
            _, said = running.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            running.kill()
            raise

    assert running.returncode not in {0, -signal.SIGKILL}
    assert b"Traceback" not in said
    assert list(scratch.iterdir()) == []


# -- ingest and demo --------------------------------------------------------------------------------------------


def klines(folder: Path) -> Path:
    """Return a file as the Binance archive has it: ten 1m bars of a spot pair."""
    start = 1_709_251_200_000
    folder.mkdir(parents=True)
    path = folder / "BTCUSDT-1m-2024-03-01.csv"
    lines = (
        f"{t},100.0,101.0,99.0,100.5,2.0,{t + 59_999},200.0,7,1.0,100.0,0"
        for t in range(start, start + 600_000, 60_000)
    )
    path.write_text("\n".join(lines) + "\n")
    return path


def test_ingest_publishes_a_file_once(hfthot, tmp_path):
    path = klines(tmp_path / "spot")

    first = json.loads(hfthot("ingest", str(path), "--json", lake=tmp_path / "lake").stdout)
    second = json.loads(hfthot("ingest", str(path), "--json", lake=tmp_path / "lake").stdout)

    assert (first[0]["status"], first[0]["rows_published"], first[0]["table"]) == ("published", 10, "market.bars_1m")
    assert second[0]["status"] == "repeated"


def test_ingest_of_a_folder_tells_each_file_and_exits_with_1_if_one_is_rejected(hfthot, tmp_path):
    klines(tmp_path / "spot")
    (tmp_path / "spot" / "notes.txt").write_text("hello\n")

    result = hfthot("ingest", str(tmp_path / "spot"), lake=tmp_path / "lake")

    assert result.exit_code == 1
    assert re.search(r"BTCUSDT-1m-2024-03-01\.csv +published +market\.bars_1m +10 +10 +0 +0", result.stdout)
    assert re.search(r"notes\.txt +rejected", result.stdout)


def test_a_file_is_withdrawn_by_its_name_and_can_be_ingested_again(hfthot, tmp_path):
    path, lake = klines(tmp_path / "spot"), tmp_path / "lake"
    hfthot("ingest", str(path), lake=lake)

    gone = hfthot("withdraw", path.name, lake=lake)
    unknown = hfthot("withdraw", "BTCUSDT-1m-2024-03-02.csv", lake=lake)
    again = json.loads(hfthot("ingest", str(path), "--json", lake=lake).stdout)

    assert gone.stdout == f"market.bars_1m: 10 rows of {path.name} withdrawn, 1 day changed\n"
    assert unknown.exit_code == 2
    assert again[0]["rows_published"] == 10


def test_ingest_takes_in_the_landing_folder(hfthot, tmp_path, monkeypatch):
    monkeypatch.setenv("HFTHOT_LANDING", str(tmp_path / "landing"))
    monkeypatch.setenv("HFTHOT_LANDING_SETTLE_SECONDS", "0")
    (tmp_path / "landing").mkdir()
    (tmp_path / "landing" / "notes.txt").write_text("hello\n")

    result = hfthot("ingest", "--landing", lake=tmp_path / "lake")

    assert result.exit_code == 1
    assert (tmp_path / "landing" / "rejected" / "notes.txt.reason.json").exists()
    assert "No file to ingest" in hfthot("ingest", "--landing", lake=tmp_path / "lake").stdout


def test_ingest_of_a_feed_tells_what_became_of_its_rows(hfthot, own):
    fetch = ("ingest", "--feed", "simulated", "--table", "market.trades", "--from", "2024-01-01")

    result = hfthot(*fetch, lake=own)

    read, published, duplicate = map(int, re.findall(r"(\d+) (?:rows read|published|duplicate)", result.stdout))
    assert result.exit_code == 0
    assert read == published + duplicate > 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give exactly one of paths, --landing and --feed"),
        (["x.csv", "--landing"], "give exactly one of paths"),
        (["no-such-file.csv"], "no such file"),
        (["--landing", "--table", "market.trades"], "need --feed"),
        (["--feed", "simulated"], "needs --table and --from"),
        (["--feed", "simulatd", "--table", "market.trades", "--from", "2024-01-01"], "Did you mean 'simulated'?"),
        (["--feed", "simulated", "--table", "market.trade", "--from", "2024-01-01"], "Did you mean 'market.trades'?"),
        (["--feed", "simulated", "--table", "market.closes", "--from", "2024-01-01"], "has no 'market.closes'"),
        (["--feed", "simulated", "--table", "market.trades", "--from", "01.02.2024"], "does not match"),
        (
            ["--feed", "simulated", "--table", "market.trades", "--from", "2024-01-02", "--to", "2024-01-01"],
            "is not after",
        ),
    ],
)
def test_ingest_refuses_with_the_reason(hfthot, arguments, says):
    result = hfthot("ingest", *arguments)

    assert result.exit_code == 2
    assert says in re.sub(r"\s+", " ", result.stderr.replace("│", ""))


def test_demo_needs_a_local_lake():
    result = CliRunner().invoke(app, ["--lake", "s3://bucket/lake", "demo"])

    assert result.exit_code == 2
    assert "local folder" in result.stderr


# -- doctor -------------------------------------------------------------------------------------------------------


def test_doctor_prints_findings_and_what_to_do(hfthot):
    result = hfthot("doctor")

    assert re.search(r"ok +market\.trades +version \d+ is intact", result.stdout)
    assert "What to do:" in result.stdout
    assert "DAGSTER_HOME" in result.stdout


def test_doctor_exits_with_1_on_an_error(hfthot, own):
    next((own / "market" / "trades").glob("date=*/*.parquet")).unlink()

    result = hfthot("doctor", "--json", lake=own)

    errors = [finding for finding in json.loads(result.stdout) if finding["level"] == "error"]
    assert result.exit_code == 1
    assert {finding["subject"] for finding in errors} == {"market.trades"}


# -- printing ------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_drawn_table_and_no_value_is_taken_for_markup(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)

    output.print_table(("name", "n"), [("[red]x[/red]", 1)], right=("n",))

    assert "[red]x[/red]" in terminal.getvalue()
    assert "─" in terminal.getvalue()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (True, "yes"),
        (0.1 + 0.2, "0.3"),
        (["a", 1], "a, 1"),
        ("two\nlines\x1b[31m", "two lines [31m"),
    ],
)
def test_values_are_shown_on_one_line(value, shown):
    assert output.text(value) == shown


@pytest.mark.parametrize(("number", "shown"), [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (2e12, "2.0 TB")])
def test_sizes_have_units(number, shown):
    assert output.size(number) == shown
