"""From counts in memory to the audit log: what `Journal` counted is written together, once a minute or on demand."""

from __future__ import annotations

from typing import Final

from hfthot_platform.core.time import moment
from hfthot_platform.services.accounts.audit import Audit
from hfthot_platform.services.accounts.directory import Directory
from hfthot_platform.services.accounts.journal import Journal, Tally
from hfthot_platform.services.accounts.quotas import Quotas
from hfthot_platform.services.accounts.records import Request
from hfthot_platform.storage.operational.store import Store

__all__ = ["Tallies"]

#: Tallies that are written in one transaction.
_CHUNK: Final = 500


class Tallies:
    """Counts what happens too often for an entry of its own, and writes the counts."""

    def __init__(self, store: Store, directory: Directory, audit: Audit, journal: Journal, quotas: Quotas) -> None:
        self._store = store
        self._directory = directory
        self._audit = audit
        self._journal = journal
        self._quotas = quotas

    def count(self, tally: Tally) -> None:
        """Count one, and write all counts if it is time."""
        if self._journal.count(tally, self._audit.now()):
            self.flush()

    def flush(self) -> None:
        """Write the counts that are kept in memory (verifications, repeated refusals) to the audit log."""
        tallies = self._journal.take()
        for start in range(0, len(tallies), _CHUNK):
            with self._store.transaction() as tx:
                for tally, count, first, last in tallies[start : start + _CHUNK]:
                    whom = tally.subject_id
                    if whom is not None and self._directory.account_of(tx, whom) is None:
                        continue  # erased meanwhile: nothing more is written about them
                    detail = {"count": count, "first": _iso(first), "last": _iso(last)}
                    event = self._audit.event(
                        tx,
                        tally.action,
                        whom,
                        tally.actor_id,
                        Request(),
                        outcome=tally.outcome,
                        resource=tally.resource,
                        detail=detail,
                    )
                    tx.log(self._quotas.count_tally(tx, tally, count, last), event)


def _iso(ts: int) -> str:
    return moment(ts).isoformat()
