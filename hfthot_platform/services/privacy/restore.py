"""After a backup was put back: store and lake go on together, and nobody who was erased comes back.

The files themselves are restored by whoever made the backup, with their own tools.  This is the step after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl
import sqlalchemy as sa

from hfthot_platform.core.errors import ErasureUnverifiedError, LegalHoldError, StoreError
from hfthot_platform.domain.contracts.accounts import AUDIT_LOG, Category
from hfthot_platform.services.accounts.accounts import CATEGORIES, Accounts
from hfthot_platform.services.privacy.erasure import run_erasure
from hfthot_platform.services.privacy.erasure_requests import request_erasure
from hfthot_platform.services.privacy.evidence import Destruction, check_log, destructions
from hfthot_platform.services.publication.chain import ChainReport
from hfthot_platform.services.publication.publisher import Publisher
from hfthot_platform.services.publication.restore import (
    Reconciliation,
    compare_chains,
    follow_the_lake,
    rewrite_lake,
    unrelated_error,
    write_rows,
)
from hfthot_platform.storage.lakehouse import Lakehouse, Stamp
from hfthot_platform.storage.operational import schema

__all__ = ["RestoreResult", "forgotten_destructions", "restore"]


@dataclass(frozen=True)
class RestoreResult:
    """What was done after a restore."""

    #: None where store and lake fitted together already.
    reconciled: Reconciliation | None
    #: Requests of erasures that the restored backup did not know, carried out again, by how they ended.
    erased: dict[str, str]
    #: Erasures of parts (a legal hold kept the rest) that were carried out again; the hold has to be placed anew.
    parts: int
    published: int
    log: ChainReport


def restore(
    accounts: Accounts,
    lake: Lakehouse,
    *,
    accept_loss: bool = False,
    rewrite: bool = False,
    stamp: Stamp | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> RestoreResult:
    """Bring store and lake together, carry forgotten erasures out again, publish, and check the audit log.

    It can be run at any time and again: where nothing is to be done it says so.

    Args:
        accounts: the accounts, from the restored store.
        lake: the lake.
        accept_loss: go on although the lake was restored from before published entries, which are lost then.
        rewrite: rewrite every row of the user tables from the store, also where the two fit.
        stamp: who runs it.
        notify: called with a description of each step.

    Raises:
        StoreError: store and lake do not belong together; or entries are lost and `accept_loss` is not set.
        CertificateError: the list of erasures, or an exported head of the log, was altered.
    """
    # What was altered is noticed before anything is written.
    listed = destructions(accounts)
    if accept_loss:
        lake.expect_new()
    publisher = Publisher(accounts.store, lake)
    notify("comparing store and lake")
    with publisher.alone():
        comparison = compare_chains(lake, accounts.store, publisher.reached())
        reconciled = None
        if comparison.state == "unrelated":
            raise unrelated_error(comparison)
        if comparison.state == "store_behind":
            reconciled = follow_the_lake(lake, accounts.store, comparison)
        elif comparison.state == "lake_behind":
            if not accept_loss:
                raise StoreError(
                    f"the user tables end at entry {comparison.lake[0]}; later entries were published, but no "
                    "backup here has them",
                    where="audit_log",
                    hint="Restore a newer backup of the lake, or run again with `--accept-loss`; the loss is recorded.",
                )
            reconciled = rewrite_lake(lake, accounts.store, comparison)
        if rewrite:
            write_rows(lake, accounts.store)
    parts = 0
    erased: dict[str, str] = {}
    whole: dict[str, str] = {}
    for subject_id, categories in forgotten_destructions(accounts, lake, listed).items():
        with accounts.store.reading() as rx:
            row = accounts.account_of(rx, subject_id)
        if row is not None and set(categories) == set(CATEGORIES):
            # From here on nobody signs in to it, however long the erasures before it take.
            whole[request_erasure(accounts, str(row["user_id"]))] = subject_id
        else:
            with accounts.store.transaction() as tx:
                accounts.destroy(tx, subject_id, categories)
            parts += 1
    for number, request_id in enumerate(whole, 1):
        notify(f"erasing again ({number} of {len(whole)})")
        try:
            run_erasure(accounts, lake, request_id)
        except (ErasureUnverifiedError, LegalHoldError) as error:
            erased[request_id] = type(error).__name__
        else:
            erased[request_id] = "done"
    notify("publishing")
    published = publisher.publish(stamp=stamp).entries
    notify("checking the audit log")
    return RestoreResult(reconciled, erased, parts, published, check_log(accounts, lake))


def forgotten_destructions(
    accounts: Accounts, lake: Lakehouse, listed: list[Destruction] | None = None
) -> dict[str, list[Category]]:
    """Return the subjects whose keys are back although they were destroyed, and the categories that were.

    What was destroyed is known from the list beside the certificates, and from the lake's audit log.
    """
    once: dict[str, set[str]] = {}
    for destruction in destructions(accounts) if listed is None else listed:
        once.setdefault(destruction.subject_id, set()).update(destruction.categories)
    if lake.table(AUDIT_LOG.name).version() is not None:
        done = (pl.col("action") == "subject.destroy") & (pl.col("outcome") == "success")
        for subject_id, detail in (
            lake.table(AUDIT_LOG.name)
            .scan()
            .filter(done)
            .select("subject_id", pl.col("detail").str.json_decode(pl.Struct({"categories": pl.List(pl.String)})))
            .collect()
            .iter_rows()
        ):
            once.setdefault(subject_id, set()).update((detail or {}).get("categories") or ())
    keys = schema.subject_keys
    alive: dict[str, set[str]] = {}
    wanted = sorted(once)
    with accounts.store.reading() as rx:
        for start in range(0, len(wanted), 500):
            chosen = sa.select(keys.c.subject_id, keys.c.category).where(
                keys.c.subject_id.in_(wanted[start : start + 500])
            )
            for subject_id, category in rx.execute(chosen):
                alive.setdefault(subject_id, set()).add(category)
    return {
        subject_id: [category for category in CATEGORIES if category in once[subject_id]]
        for subject_id, present in sorted(alive.items())
        if present & once[subject_id]
    }
