"""The audit log proves that no entry was altered, dropped, inserted or moved, also after erasure and retention."""

from __future__ import annotations

import threading

import polars as pl
import pytest

from hfthot_platform.domain.contracts.accounts import AUDIT_LOG
from hfthot_platform.services.publication.chain import verify_chain
from hfthot_platform.services.publication.publisher import Publisher
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.changes import AuditEvent, RowChange, chain_hash

ALICE, BORIS = "a" * 32, "b" * 32
ENVELOPE = "e1." + "x" * 60


def write(store, count, subject=ALICE):
    for number in range(count):
        with store.transaction() as tx:
            tx.log(
                [],
                AuditEvent(
                    action="user.update", subject_id=subject, detail=f'{{"n":{number}}}', ip=ENVELOPE, user_agent=None
                ),
            )


@pytest.fixture
def published(store, lake, clock):
    """Ten entries on two days, in the lake."""
    write(store, 5)
    clock.forward(days=1)
    write(store, 5, BORIS)
    Publisher(store, lake).publish()
    return lake


def tamper(lake, change):
    """Write `audit_log` anew, past all that the platform checks."""
    table = lake.table(AUDIT_LOG.name)
    rows = change(table.scan().collect().sort("seq"))
    import deltalake

    deltalake.write_deltalake(table.uri, rows.rechunk(), mode="overwrite")


def rehashed(rows):
    """Return rows with hashes that fit again from the first altered one on."""
    out, previous = [], None
    for row in rows.iter_rows(named=True):
        previous = row["previous_hash"] if previous is None else previous
        ts = round(row["ts"].timestamp() * 1_000_000)
        own = chain_hash(
            previous,
            ts=ts,
            **{
                name: row[name]
                for name in (
                    "seq",
                    "subject_id",
                    "actor_id",
                    "action",
                    "outcome",
                    "resource",
                    "detail",
                    "personal_digest",
                )
            },
        )
        out.append({**row, "previous_hash": previous, "hash": own})
        previous = own
    return pl.DataFrame(out, schema=rows.schema)


def where(seq, **values):
    return lambda rows: rows.with_columns(
        pl.when(pl.col("seq") == seq).then(pl.lit(value, dtype=rows.schema[name])).otherwise(pl.col(name)).alias(name)
        for name, value in values.items()
    )


def test_an_empty_log_is_intact(lake, store):
    report = verify_chain(lake, store)

    assert report.intact
    assert (report.entries, report.pending, report.head_seq) == (0, 0, 0)


def test_a_log_is_intact_from_the_first_entry_to_the_head(published, store):
    write(store, 3)

    report = verify_chain(published, store)

    assert report.problems == ()
    assert (report.entries, report.pending, report.anchor_seq, report.head_seq) == (10, 3, 0, 13)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("change", "found"),
    [
        (where(4, outcome="refused"), "entry 4 was altered"),
        (where(4, detail=None), "entry 4 was altered"),
        (where(4, subject_id=BORIS), "entry 4 was altered"),
        (where(4, ip=ENVELOPE[:-1] + "y"), "entry 4 has altered personal columns"),
        (where(4, ip=None), "entry 4 has altered personal columns"),
        (where(4, ip=None, redacted=True), "entry 4 was redacted, although its subject was not erased"),
        (where(4, redacted=True), "entry 4 is marked as redacted, but has personal data"),
        (where(4, previous_hash="0" * 64), "entry 4 does not follow from the previous entry"),
        (lambda rows: rows.filter(pl.col("seq") != 4), "entry 4 is missing (4)"),
        (lambda rows: rows.filter(pl.col("seq") > 4), "entry 1 is missing (1 to 4)"),
        (
            lambda rows: rows.filter(pl.col("seq") < 9),
            "entry 9 is missing (9 to 10, the newest entry that was written)",
        ),
        (lambda rows: rows.clear(), "entry 1 is missing (1 to 10, the newest entry that was written)"),
        (lambda rows: pl.concat([rows, rows.filter(pl.col("seq") == 4)]), "entry 4 occurs twice"),
        (lambda rows: rehashed(where(4, outcome="refused")(rows)), "entry 10 is not the entry that was written"),
        (
            lambda rows: rehashed(rows.filter(pl.col("seq") != 4).with_columns(seq=pl.int_range(1, 10).cast(pl.Int64))),
            "entry 10 is missing (10 to 10, the newest entry that was written)",
        ),
        (
            lambda rows: rehashed(pl.concat([rows, rows.tail(1).with_columns(seq=pl.lit(11, pl.Int64))])),
            "entry 11 was never written",
        ),
        (
            lambda rows: rows.with_columns(
                seq=pl.when(pl.col("seq") == 4).then(5).when(pl.col("seq") == 5).then(4).otherwise(pl.col("seq"))
            ),
            "entry 4 does not follow from the previous entry",
        ),
    ],
    ids=[
        "outcome",
        "detail",
        "subject",
        "address",
        "address gone",
        "false redaction",
        "redaction without effect",
        "link",
        "dropped",
        "beginning dropped",
        "end dropped",
        "all dropped",
        "doubled",
        "altered and hashed anew",
        "dropped and hashed anew",
        "inserted at the end",
        "reordered",
    ],
)
def test_whatever_is_done_to_the_rows_is_found(published, store, change, found):
    tamper(published, change)

    assert found in [str(problem) for problem in verify_chain(published, store).problems]


def test_a_day_moved_to_another_partition_is_found(published, store):
    tamper(published, lambda rows: rows.with_columns(date=pl.lit("2024-03-01").str.to_date()))

    assert not verify_chain(published, store).intact


def test_a_redaction_of_an_erased_subject_is_in_order(published, store, lake):
    with store.transaction() as tx:
        tx.execute(schema.subjects.insert().values(subject_id=ALICE, created_at=1, erased_at=2))
        tx.log([RowChange("audit_log", "forget", {"subject_id": ALICE})], AuditEvent(action="user.erase"))
    Publisher(store, lake).publish()

    report = verify_chain(lake, store)

    assert report.problems == ()
    assert report.redacted == 5


def test_the_rest_is_intact_after_the_anchor(published, store):
    rows = published.table("audit_log").scan().sort("seq").collect()
    last = rows.row(4, named=True)
    with store.transaction() as tx:
        tx.execute(schema.retention_anchors.insert().values(seq=5, hash=last["hash"], cut_at=1))
    tamper(published, lambda rows: rows.filter(pl.col("seq") > 5))

    report = verify_chain(published, store)

    assert report.intact
    assert (report.anchor_seq, report.entries) == (5, 5)


def test_an_anchor_at_another_hash_is_found(published, store):
    with store.transaction() as tx:
        tx.execute(schema.retention_anchors.insert().values(seq=5, hash="0" * 64, cut_at=1))

    assert str(verify_chain(published, store).problems[0]) == "entry 6 does not follow from the previous entry"


def test_entries_that_are_published_meanwhile_are_no_problem(published, store, lake):
    stop = threading.Event()
    failed = []

    def work():
        try:
            while not stop.is_set():
                write(store, 3)
                Publisher(store, lake).publish()
        except Exception as error:
            failed.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(8):
            assert verify_chain(lake, store).problems == ()
    finally:
        stop.set()
        worker.join()
    assert not failed
