"""Who reads what: tables, columns and rows by tier and role, in every version and through every view."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from hfthot_platform.core.errors import (
    BadRequestError,
    PermissionDeniedError,
    QuotaExceededError,
    SqlError,
    SqlRefusedError,
    TierForbiddenError,
    UnknownTableError,
)
from hfthot_platform.domain.access.authorisation import Principal
from hfthot_platform.domain.access.visibility import Visibility
from hfthot_platform.domain.contracts import CONTRACTS, Column, TableContract
from hfthot_platform.domain.contracts.model import DATE, INT, TEXT
from hfthot_platform.domain.contracts.views import VIEWS, SqlView
from hfthot_platform.services.sql.gateway import QueryLimits, SqlGateway
from hfthot_platform.services.sql.gateway.catalog import Catalog
from hfthot_platform.services.sql.relations import relations_of
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.lakehouse.file_cache import FileCache
from hfthot_platform.storage.lakehouse.storage import Storage
from tests.sql.gateway.conftest import EXTRA, NOW, OLD_CANARY, kanarien
from tests.sql.test_engine import bars

USER_TABLES = {"users", "sessions", "api_keys", "usage", "audit_log"}


def readable(lake: Lakehouse, tier: str, role: str = "registered") -> Mapping[str, tuple[str, ...]]:
    return Visibility.of(tier, role).readable(relations_of(lake))


def seeing_back(name: str, days: int) -> Principal:
    """Return a reader of the largest plan who sees no row that is older."""
    sees = replace(Visibility.of("enterprise", "registered"), history=timedelta(days=days))
    return Principal(name, "registered", "enterprise", sees=sees)


def open_to(lake, pool, principal: Principal) -> SqlGateway:
    return SqlGateway(lake, principal, pool, quota=lambda: None)


@pytest.mark.parametrize("tier", ["hobbyist", "professional", "enterprise"])
def test_subscribers_read_market_signals_and_portfolio(lake, tier):
    names = readable(lake, tier)

    assert {name.partition(".")[0] for name in names} == {"market", "signals", "portfolio", "marts"}
    assert {"market.bars_1m", "market.ohlcv", "signals.regimes", "portfolio.weights"} <= set(names)


def test_mean_field_games_begin_with_professional(lake):
    assert "signals.mfg_prices" not in readable(lake, "hobbyist")
    assert "signals.mfg_prices" in readable(lake, "professional")


def test_admins_alone_read_user_tables_operations_and_quarantine(lake):
    assert USER_TABLES | {"ops.incidents", "quarantine.bars_1m"} <= set(readable(lake, "free", "admin"))
    for role in ("registered", "trader"):
        assert not (USER_TABLES | {"ops.incidents", "quarantine.bars_1m"}) & set(readable(lake, "enterprise", role))


@pytest.mark.parametrize("role", ["guest", "pending"])
def test_guests_and_pending_accounts_read_nothing(lake, pool, role):
    gateway = SqlGateway(lake, Principal("someone", role, "enterprise"), pool)

    with pytest.raises(PermissionDeniedError, match="does not read data"):
        gateway.query("SELECT 1")


def test_personal_columns_hashes_and_ciphertexts_are_closed_even_to_admins(lake):
    names = readable(lake, "enterprise", "admin")

    assert names["market.kanarien"] == ("id", "ts", "label")
    for table in USER_TABLES:
        personal = {column.name for column in lake.contracts[table].columns if column.personal}
        assert not personal & set(names[table])
    assert not [name for name in names["api_keys"] if "hash" in name or name == "secret"]


def test_rejected_rows_of_user_tables_are_not_shown_as_text(lake):
    names = readable(lake, "enterprise", "admin")

    assert "row" in names["quarantine.bars_1m"]
    assert not {"row", "detail"} & set(names.get("quarantine.audit_log", ()))


def test_the_chain_of_the_audit_log_can_be_verified(lake):
    assert {"hash", "previous_hash", "personal_digest"} <= set(readable(lake, "enterprise", "admin")["audit_log"])


def test_a_principal_can_see_single_columns_of_single_tables(lake, pool):
    sees = Visibility({"market.bars_1m": frozenset({"symbol", "close", "mail"})})
    gateway = open_to(lake, pool, Principal("someone", "registered", "enterprise", sees=sees))

    assert gateway.query("SELECT * FROM market.bars_1m LIMIT 1").schema.names == ["symbol", "close"]
    with pytest.raises(UnknownTableError):
        gateway.query("SELECT * FROM market.ohlcv")


def test_star_gives_the_permitted_columns_alone(lake, pool):
    gateway = open_to(lake, pool, Principal("admin", "admin", "enterprise"))

    assert gateway.query("SELECT * FROM market.kanarien VERSION AS OF 0").schema.names == ["id", "ts", "label"]
    described = gateway.query("DESCRIBE market.kanarien").data.column("column_name").to_pylist()
    listed = (
        gateway.query("SELECT column_name FROM hfthot.columns WHERE table_name = 'market.kanarien'")
        .data.column(0)
        .to_pylist()
    )
    assert sorted(described) == sorted(listed) == ["id", "label", "ts"]


def test_what_is_forbidden_and_what_does_not_exist_look_the_same(gateway):
    messages = set()
    for name in ("quarantine.closes", "quarantine.xloses"):
        with pytest.raises(UnknownTableError) as caught:
            gateway.query(f"SELECT * FROM {name}")
        messages.add(str(caught.value).replace(name, "it"))

    assert len(messages) == 1


# -- models and views -----------------------------------------------------------------------------------------


def test_a_model_is_readable_by_who_reads_all_that_it_is_made_from(lake):
    assert "marts.daily" in readable(lake, "hobbyist")
    assert "marts.kanarien_summary" not in readable(lake, "enterprise")
    assert "marts.kanarien_summary" in readable(lake, "free", "admin")


def test_a_model_that_sums_up_all_history_is_for_those_who_read_all_of_it(lake):
    assert "marts.totals" in readable(lake, "enterprise")
    assert "marts.totals" not in readable(lake, "professional")


def test_what_was_read_and_how_many_rows_there_are_tell_nothing_of_older_rows(lake, pool):
    gateway = open_to(lake, pool, Principal("someone", "registered", "hobbyist"))

    def scanned(least: int) -> int:
        return gateway.query(f"SELECT sum(length(label)) AS n FROM market.kanarien WHERE id > {least}").bytes_scanned

    versions = gateway.query("SELECT * FROM hfthot.versions WHERE table_name = 'market.kanarien'", format="polars").data

    assert len({scanned(least) for least in (0, 2_000, 3_997, 3_998, 3_999, 2**40)}) == 1
    assert versions["rows"].null_count() == versions.height > 0


def test_a_table_among_the_models_of_unknown_origin_is_closed(lake):
    stray = replace(EXTRA["marts.daily"], name="marts.stray", made_from=None)
    other = Lakehouse.open(lake.storage.root, contracts={**CONTRACTS, stray.name: stray})

    assert stray.name not in readable(other, "enterprise")


@pytest.fixture(scope="module")
def with_views(lake) -> Lakehouse:
    def view(name: str, sql: str, *columns: Column) -> SqlView:
        return SqlView(name, sql, columns, "A view.")

    views = (
        view(
            "marts.labels",
            "SELECT label, count(*) AS n FROM market.kanarien GROUP BY ALL",
            Column("label", TEXT, "l"),
            Column("n", INT, "n"),
        ),
        view("marts.over_view", "SELECT label FROM marts.labels -- all", Column("label", TEXT, "l")),
        view("marts.mails", "SELECT mail FROM market.kanarien", Column("mail", TEXT, "m")),
        view("marts.roles", "SELECT role, count(*) AS n FROM users GROUP BY ALL", Column("role", TEXT, "r")),
        view("marts.circle", "SELECT label FROM marts.circle", Column("label", TEXT, "l")),
    )
    return Lakehouse.open(
        lake.storage.root,
        clock=lambda: NOW,
        contracts=lake.contracts,
        views={**VIEWS, **{view.name: view for view in views}},
    )


def test_a_computed_view_has_the_depth_of_the_tables_below(with_views, pool):
    everything = open_to(with_views, pool, Principal("a", "registered", "enterprise"))
    month = open_to(with_views, pool, seeing_back("b", days=30))

    for name in ("marts.labels", "marts.over_view"):
        sql = f"SELECT label FROM {name} ORDER BY 1"
        assert everything.query(sql).data.column(0).to_pylist() == ["123", OLD_CANARY]
        assert month.query(sql).data.column(0).to_pylist() == ["123"]


def test_a_view_over_closed_tables_is_closed(with_views):
    assert "marts.roles" not in readable(with_views, "enterprise")
    assert "marts.circle" not in readable(with_views, "enterprise")


def test_a_view_over_closed_columns_cannot_be_read(with_views, pool):
    gateway = open_to(with_views, pool, Principal("admin", "admin", "enterprise"))

    with pytest.raises(SqlError, match="cannot be read") as caught:
        gateway.query("SELECT * FROM marts.mails")
    assert "mail " not in str(caught.value)


# -- depth of history -------------------------------------------------------------------------------------------


@pytest.fixture
def month(lake, pool) -> SqlGateway:
    return open_to(lake, pool, seeing_back("monthly", days=30))


def test_rows_before_the_depth_are_not_there(month):
    result = month.query("SELECT count(*) AS n, count(*) FILTER (label <> '123') AS old FROM market.kanarien")

    assert result.data.to_pylist() == [{"n": 2_000, "old": 0}]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT label FROM market.kanarien",
        "SELECT label FROM market.kanarien VERSION AS OF 0",
        "SELECT max(label) FROM market.kanarien WHERE ts < '2020-01-01'",
        "SELECT min(ts)::VARCHAR || max(label) FROM market.kanarien",
        "SELECT a.label FROM market.kanarien a LEFT JOIN market.kanarien b ON a.id = b.id + 1",
        "SELECT label FROM market.kanarien WHERE ts < now() OR true",
        "SELECT any_value(label ORDER BY ts) FROM market.kanarien",
        "SELECT lag(label) OVER (ORDER BY id) FROM market.kanarien",
        "SELECT label FROM market.kanarien TABLESAMPLE 100%",
        "WITH a AS MATERIALIZED (FROM market.kanarien) SELECT label FROM a",
        "SUMMARIZE market.kanarien",
    ],
)
def test_no_statement_undoes_the_depth(month, sql):
    assert OLD_CANARY not in str(month.query(sql, format="json").data)


#: Each tells something of rows that it meets, by failing.
ORACLES = [
    "SELECT count(*) FROM {t} WHERE label::INT = 123",
    "SELECT count(*) FROM {t} WHERE CASE WHEN label <> '123' THEN error(label) ELSE 'a' END = 'a'",
    "SELECT count(*) FROM {t} WHERE CASE WHEN ts < '2020-01-01' THEN error('old' || id) ELSE 'a' END = 'a'",
    "SELECT count(*) FROM {t} WHERE id > 5 AND label::INT > 0 AND ts > '2000-01-01'",
    "SELECT sum(label::INT) FROM {t}",
    "SELECT count(*) FROM {t} a JOIN {t} b ON a.label::INT = b.id",
    "SELECT max(label::INT) FROM {t} WHERE ts <= '2020-01-01' OR id >= 0",
    "SELECT label::INT FROM {t} ORDER BY label::INT LIMIT 3",
    "SELECT count(*) FROM {t} GROUP BY label::INT",
    "SELECT first(label::INT) OVER (ORDER BY id) FROM {t} LIMIT 1",
    "SELECT count(*) FROM {t} WHERE id IN (SELECT label::INT FROM {t})",
    "SELECT count(*) FROM {t} WHERE (1 / CASE WHEN label = '123' THEN 1 ELSE 0 END)::INT = 1 AND label::INT > 0",
    "SELECT strptime(label, '%j') FROM {t} WHERE label <> '123' OR id % 2 = 1",
    "SELECT list_transform([label], lambda x: x::INT) FROM {t}",
]


@pytest.mark.parametrize("sql", ORACLES)
@pytest.mark.parametrize("version", ["", " VERSION AS OF 0"])
def test_errors_are_no_oracle_for_older_rows(month, sql, version):
    month.query(
        sql.replace("{t} a", "{t}" + version + " a")
        .replace("{t} b", "{t}" + version + " b")
        .format(t="market.kanarien" + ("" if " a JOIN" in sql else version))
    )


def test_files_before_the_depth_are_not_even_handed_over(tmp_path):
    now = datetime(2024, 3, 20, 12, tzinfo=UTC)
    lake = Lakehouse.open(tmp_path / "lake", clock=lambda: now)
    days = [now.replace(hour=0) - timedelta(days=back) for back in (0, 1, 2, 3, 40)]
    for day in days:
        lake.table("market.bars_1m").append(bars(day))
    catalog = Catalog(lake, seeing_back("a", days=2))

    supply, _ = catalog.supply([["market.bars_1m", "x", None, None]], {}, None)

    handed = {re.search(r"date=([\d-]+)", path).group(1) for path in supply.paths}
    assert handed == {f"{day:%Y-%m-%d}" for day in days[:3]}
    body = supply.views[0].body
    # Only the day that the limit cuts through needs a filter.
    filtered = body[body.index("SELECT * FROM (SELECT") :]
    assert "2024-03-18" in filtered
    assert "2024-03-19" not in filtered


def test_the_depth_is_exact_to_the_microsecond(tmp_path, pool):
    start = datetime(2024, 3, 1, tzinfo=UTC)
    now = start + timedelta(days=30, minutes=5)
    lake = Lakehouse.open(tmp_path / "lake", clock=lambda: now)
    lake.table("market.bars_1m").append(bars(start))
    gateway = open_to(lake, pool, Principal("x", "admin", "free"))
    limited = open_to(lake, pool, seeing_back("a", days=30))

    sql = "SELECT min(ts) AS first, count(*) AS n FROM market.bars_1m"
    assert gateway.query(sql, format="polars").data.row(0) == (start, 20)
    assert limited.query(sql, format="polars").data.row(0) == (start + timedelta(minutes=5), 10)


def test_the_depth_of_a_dated_table_begins_with_its_day(tmp_path, pool):
    now = datetime(2024, 3, 20, 12, tzinfo=UTC)
    dated = TableContract(
        name="market.dated",
        description="A row a day.",
        columns=(Column("date", DATE, "Day"),),
        primary_key=("date",),
        sort_by=("date",),
        time_column="date",
    )
    lake = Lakehouse.open(tmp_path / "lake", clock=lambda: now, contracts={dated.name: dated}, views={})
    lake.table(dated.name).append(pl.DataFrame({"date": [now.date() - timedelta(days=age) for age in (0, 2, 3, 9)]}))
    limited = open_to(lake, pool, seeing_back("a", days=2))

    assert limited.query("SELECT count(*) AS n FROM market.dated").data.to_pylist() == [{"n": 2}]


def test_every_version_has_the_same_depth(lake, month):
    table = lake.table("market.kanarien")
    version = table.version()
    assert table.merge(kanarien().head(1).with_columns(pl.lit("other").alias("label"))).version == version + 1

    count = "SELECT count(*) AS n FROM market.kanarien"
    sql = f"{count} VERSION AS OF {version} UNION ALL {count}"
    assert [row["n"] for row in month.query(sql).data.to_pylist()] == [2_000, 2_000]


@pytest.fixture
def on_an_object_store(lake, monkeypatch, tmp_path):
    """The lake as it is where workers cannot reach it; everything but the place is real."""
    monkeypatch.setattr(lake, "file_cache", FileCache(tmp_path / "files", 2**30))
    monkeypatch.setattr(Storage, "local", property(lambda _self: None))
    return lake


def test_tables_on_an_object_store_are_read_as_on_a_disk(on_an_object_store, pool):
    gateway = open_to(on_an_object_store, pool, Principal("a", "registered", "enterprise"))
    limited = seeing_back("b", days=30)
    sql = "SELECT date, symbol, max(ts) AS t FROM market.bars_1m VERSION AS OF 2 GROUP BY ALL ORDER BY ALL"

    assert gateway.query(sql).rows == 4
    assert gateway.query("SELECT * FROM market.kanarien").schema.names == ["id", "ts", "label"]
    month = open_to(on_an_object_store, pool, limited)
    assert month.query("SELECT count(*) AS n FROM market.kanarien").data.to_pylist() == [{"n": 2_000}]


# -- quota and limits -------------------------------------------------------------------------------------------


def test_a_tier_without_queries_is_refused(lake, pool):
    with pytest.raises(TierForbiddenError, match="the plan 'free' does not include SQL"):
        SqlGateway(lake, Principal("someone", "registered", "free"), pool).query("SELECT 1")


def test_permission_comes_before_any_look_at_the_arguments(lake, pool):
    gateway = SqlGateway(lake, Principal("someone", "guest", "enterprise"), pool)

    for arguments in ({"sql": 7}, {"sql": "SELECT 1", "as_of": datetime(2024, 1, 1)}, {"sql": ""}):
        with pytest.raises(PermissionDeniedError):
            gateway.query(**arguments)


def test_the_quota_of_the_caller_is_asked_once_for_each_statement(lake, pool, gateway):
    left = iter([True, True, False])

    def take() -> None:
        if not next(left):
            raise QuotaExceededError("used up", where="SQL")

    counted = SqlGateway(lake, gateway.principal, pool, quota=take)
    counted.query("SELECT 1")
    with pytest.raises(SqlRefusedError):
        counted.query("DROP TABLE x")
    counted.query("SELECT 1")
    with pytest.raises(QuotaExceededError):
        counted.query("SELECT 1")


def test_without_another_counter_the_pool_counts_by_caller(lake, pool):
    caller = Principal("counted", "registered", "hobbyist")
    for _ in range(10):
        SqlGateway(lake, caller, pool).query("SELECT 1")

    with pytest.raises(QuotaExceededError, match="10 SQL statements") as caught:
        SqlGateway(lake, caller, pool).query("SELECT 1")
    assert 3500 < caught.value.retry_after <= 3600
    SqlGateway(lake, replace(caller, id="another"), pool).query("SELECT 1")


def test_limits_only_ever_narrow(lake, pool, gateway):
    wide = QueryLimits(rows=10**9)
    narrow = SqlGateway(lake, gateway.principal, pool, limits=QueryLimits(rows=3))

    assert narrow.query("SELECT * FROM range(10)", limits=wide).rows == 3
    assert narrow.query("SELECT * FROM range(10)", limits=QueryLimits(rows=2)).rows == 2


@pytest.mark.parametrize("field", ["rows", "bytes", "seconds", "queue_seconds", "memory"])
def test_a_limit_of_nothing_is_an_error(field):
    with pytest.raises(BadRequestError, match=field):
        QueryLimits(**{field: 0})


def test_an_unknown_tier_is_an_error():
    with pytest.raises(BadRequestError):
        Principal("someone", "registered", "platinum")
