"""What lies outside of store and lake shows what was done to both."""

from __future__ import annotations

import stat

import deltalake
import polars as pl
import pytest

from hfthot_platform.core.errors import CertificateError
from hfthot_platform.services.privacy.evidence import check_log, export_head, exported_heads
from hfthot_platform.services.publication.publisher import Publisher
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.changes import AuditEvent


def write(store, count):
    for _ in range(count):
        with store.transaction() as tx:
            tx.log([], AuditEvent(action="user.update"))


@pytest.fixture
def exported(accounts, lake, clock):
    """Ten published entries, of which the first seven were there when a head was exported; ten days went by."""
    write(accounts.store, 7)
    export_head(accounts)
    write(accounts.store, 3)
    Publisher(accounts.store, lake).publish()
    clock.forward(days=10)
    return accounts


def cut(accounts, lake, keep):
    """Remove entries from lake and store, and let the store's head fit what is left."""
    table = lake.table("audit_log")
    rows = table.scan().filter(keep).sort("seq").collect()
    deltalake.write_deltalake(table.uri, rows.to_arrow(), mode="overwrite")
    last = rows.row(-1, named=True)
    with accounts.store.transaction() as tx:
        tx.execute(schema.change_head.update().values(seq=last["seq"], hash=last["hash"]))
    return rows


def said(report):
    return [str(problem) for problem in report.problems]


def test_a_log_that_nobody_touched_fits_the_exported_heads(exported, lake):
    report = check_log(exported, lake)

    assert report.problems == ()
    assert report.exported_heads == 1


def test_a_tail_that_was_cut_off_everywhere_is_noticed(exported, lake):
    cut(exported, lake, pl.col("seq") <= 5)

    assert "entry 6 is missing (6 to 7, which existed on 2024-03-10)" in said(check_log(exported, lake))


def test_a_tail_that_was_written_anew_is_noticed(exported, lake):
    cut(exported, lake, pl.col("seq") <= 5)
    write(exported.store, 9)

    assert "entry 7 is not the entry that was written" in said(check_log(exported, lake))


def test_a_beginning_that_was_removed_before_its_time_is_noticed(exported, lake):
    first = cut(exported, lake, pl.col("seq") > 8).row(0, named=True)
    with exported.store.transaction() as tx:
        tx.execute(schema.retention_anchors.insert().values(seq=8, hash=first["previous_hash"], cut_at=1))

    assert "entry 7 was removed too early (it existed on 2024-03-10)" in said(check_log(exported, lake))


def test_what_retention_removed_in_time_is_no_problem(exported, lake, clock):
    first = cut(exported, lake, pl.col("seq") > 8).row(0, named=True)
    with exported.store.transaction() as tx:
        tx.execute(schema.retention_anchors.insert().values(seq=8, hash=first["previous_hash"], cut_at=1))
    clock.forward(days=81)

    assert check_log(exported, lake).problems == ()


def test_an_anchor_that_was_moved_back_or_altered_is_noticed(exported, lake):
    first = cut(exported, lake, pl.col("seq") > 3).row(0, named=True)
    anchors = schema.retention_anchors
    with exported.store.transaction() as tx:
        tx.execute(anchors.insert().values(seq=3, hash=first["previous_hash"], cut_at=1))
    export_head(exported)
    assert "anchor" not in str(said(check_log(exported, lake)))

    with exported.store.transaction() as tx:
        tx.execute(anchors.update().values(hash="0" * 64))
    altered = said(check_log(exported, lake))
    with exported.store.transaction() as tx:
        tx.execute(anchors.delete())
    gone = said(check_log(exported, lake))

    assert "entry 3 is no longer the same anchor as on 2024-03-20" in altered
    assert "entry 3 is no longer the same anchor as on 2024-03-20" in gone


@pytest.mark.parametrize("change", [('"seq":7', '"seq":6'), ("}", "} "), ("signature", "sign"), ("{", "")])
def test_an_exported_head_that_was_altered_is_noticed(exported, lake, settings, change):
    path = next((settings.certificates / "heads").glob("*.json"))
    path.write_text(path.read_text().replace(*change))

    if change == ("}", "} "):
        assert check_log(exported, lake).intact  # blanks of JSON say nothing
    else:
        with pytest.raises(CertificateError, match="heads/"):
            check_log(exported, lake)


def test_heads_are_for_the_platform_alone_and_name_nobody(exported, settings):
    path = next((settings.certificates / "heads").glob("*.json"))

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert set(vars(exported_heads(exported)[0])) == {"seq", "hash", "at", "anchor_seq", "anchor_hash"}


def test_heads_of_entries_that_retention_removed_do_not_pile_up(exported, lake, settings):
    for _ in range(3):
        write(exported.store, 1)
        export_head(exported)
    Publisher(exported.store, lake).publish()
    first = cut(exported, lake, pl.col("seq") > 12).row(0, named=True)
    with exported.store.transaction() as tx:
        tx.execute(schema.retention_anchors.insert().values(seq=12, hash=first["previous_hash"], cut_at=1))

    export_head(exported)

    assert [head.seq for head in exported_heads(exported)] == [12, 13]
