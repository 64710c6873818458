"""Random operations for the publisher's tests, what the tables must hold after them, and a publisher to be killed.

python ledger.py        a warm process that forks a publisher per line of standard input:
                        URL LAKE BATCH KILL_AT    (0: never) and says `gone` when it has ended
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from hfthot_platform.domain.contracts.accounts import USER_TABLES
from hfthot_platform.services.publication import publisher as module
from hfthot_platform.services.publication.publisher import APPLICATION, Publisher
from hfthot_platform.storage.lakehouse import Lakehouse, datafiles, rewrite
from hfthot_platform.storage.lakehouse.table import Table
from hfthot_platform.storage.lakehouse.write import Writer
from hfthot_platform.storage.operational.changes import AuditEvent, Entry, RowChange
from hfthot_platform.storage.operational.store import Store

DAY = 86_400_000_000
NOW = 19_700 * DAY
TABLES = tuple(contract.name for contract in USER_TABLES)
KEYS = {
    "users": ("subject_id",),
    "sessions": ("session_id",),
    "api_keys": ("key_id",),
    "usage": ("day", "subject_id", "resource"),
}
PERSONAL = ("ip", "user_agent", "personal_detail")
SEALED = "e1." + "x" * 40


def subject(number: int) -> str:
    return f"{number:032x}"


def user(number: int, tier: str = "free", at: int = NOW) -> RowChange:
    row = {
        "subject_id": subject(number),
        "username": SEALED,
        "email": SEALED,
        "first_name": None,
        "last_name": None,
        "preferences": None,
        "role": "registered",
        "tier": tier,
        "active": True,
        "data_sharing_consent": False,
        "created_at": NOW,
        "updated_at": at,
        "deleted_at": None,
    }
    return RowChange("users", "put", row)


def session(number: int, whose: int, at: int = NOW, ended: int | None = None) -> RowChange:
    row = {
        "session_id": subject(1000 + number),
        "subject_id": subject(whose),
        "created_at": at,
        "expires_at": at + DAY,
        "ended_at": ended,
        "end_reason": None if ended is None else "logout",
        "ip": SEALED,
        "user_agent": None,
    }
    return RowChange("sessions", "put", row)


def key(number: int, whose: int, at: int = NOW, revoked: int | None = None) -> RowChange:
    row = {
        "key_id": subject(2000 + number),
        "subject_id": subject(whose),
        "kind": "hfthot",
        "provider": None,
        "tier": "free",
        "prefix": "hft_free_abcd",
        "secret": None,
        "created_at": at,
        "revoked_at": revoked,
        "replaced_by": None,
    }
    return RowChange("api_keys", "put", row)


def usage(whose: int, used: int, at: int = NOW) -> RowChange:
    row = {
        "subject_id": subject(whose),
        "resource": "requests",
        "used": used,
        "used_today": used,
        "quota": None,
        "remaining": None,
        "resets_at": None,
        "updated_at": at,
    }
    return RowChange("usage", "put", row)


def forget(number: int) -> list[RowChange]:
    return [RowChange(name, "forget", {"subject_id": subject(number)}) for name in TABLES]


def operations(seed: int, subjects: int = 8) -> Iterator[tuple[list[RowChange], AuditEvent]]:
    """Yield operations without end.  A forgotten subject may come back: the order alone decides what stays."""
    dice = random.Random(seed)
    for number in itertools.count(1):
        whose = dice.randrange(subjects)
        # Days change now and then, so that several partitions are written.
        at = NOW + dice.randrange(3) * DAY + number
        match dice.randrange(9):
            case 0:
                rows, action = [user(whose, dice.choice(("free", "hobbyist")), at)], "user.register"
            case 1:
                rows, action = [user(whose, "professional", at)], "user.upgrade_tier"
            case 2 | 3:
                rows, action = [session(number, whose, at)], "session.login"
            case 4:
                opened = NOW + (number % 3) * DAY
                rows = [session(9000 + whose, whose, NOW, ended=opened)]
                action = "session.logout"
            case 5:
                rows, action = [key(9000 + whose, whose, NOW, revoked=at)], "api_key.revoke"
            case 6:
                rows, action = [usage(whose, number, at)], "quota.increment"
            case 7:
                rows, action = [], "user.read"
            case _:
                rows, action = forget(whose), "user.erase"
        personal = {name: SEALED for name in PERSONAL if dice.random() < 0.5}
        yield rows, AuditEvent(action=action, subject_id=subject(whose), **personal)


def log(store: Store, chosen: list[tuple[list[RowChange], AuditEvent]]) -> list[Entry]:
    """Write operations, one transaction each, and return their entries."""
    before = store.head()[0]
    for rows, audit in chosen:
        with store.transaction() as tx:
            tx.log(rows, audit)
    return store.entries(before, len(chosen))


class Model:
    """What each table holds after the entries up to one, told as plainly as possible."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries

    def rows(self, table: str, up_to: int) -> dict[Any, dict[str, Any]]:
        held: dict[Any, dict[str, Any]] = {}
        for entry in self.entries:
            if entry.seq > up_to:
                break
            for change in entry.rows:
                if change.table != table:
                    continue
                if change.op == "forget":
                    whose = change.row["subject_id"]
                    if table == "audit_log":
                        for row in held.values():
                            if row["subject_id"] == whose:
                                row |= {**dict.fromkeys(PERSONAL), "redacted": True}
                    else:
                        held = {k: row for k, row in held.items() if row["subject_id"] != whose}
                else:
                    row = {**change.row, "seq": entry.seq}
                    dated = {**row, "day": row.get("updated_at", 0) // DAY}
                    held[tuple(dated[name] for name in KEYS[table])] = row
            if table == "audit_log":
                event = entry.audit
                held[entry.seq] = {
                    "seq": entry.seq,
                    "ts": entry.ts,
                    "subject_id": event.subject_id,
                    "action": event.action,
                    **{name: getattr(event, name) for name in PERSONAL},
                    "redacted": False,
                    "hash": entry.hash,
                }
        return held

    def check(self, lake: Lakehouse) -> None:
        """Compare every table with what it must hold at the entry that it says to have reached."""
        for name in TABLES:
            table = lake.table(name)
            expected = list(self.rows(name, table.applied(APPLICATION)).values())
            found = stored(table)
            names = sorted(expected[0]) if expected else []
            as_text = sorted(str([row[column] for column in names]) for row in expected)
            assert sorted(str([row[column] for column in names]) for row in found) == as_text, name
            assert table.problems() == [], name


def stored(table: Table) -> list[dict[str, Any]]:
    """Return a table's rows with times in microseconds."""
    import polars as pl

    return table.scan().with_columns(pl.selectors.datetime().dt.epoch("us")).collect().rows(named=True)


def fatal_steps(kill_at: int) -> None:
    """Kill this process at its n-th step: before and after each commit, within it, and around the log's trimming."""
    steps = itertools.count(1)

    def step() -> None:
        if next(steps) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def stepping(owner: Any, name: str) -> None:
        genuine = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            step()
            result = genuine(*args, **kwargs)
            step()
            return result

        setattr(owner, name, wrapped)

    stepping(rewrite.Rewrite, "commit")
    stepping(datafiles.DataFiles, "write")
    stepping(Writer, "acknowledge")
    stepping(Table, "apply")
    stepping(Store, "trim")


def publish(url: str, lake: str, batch: str, kill_at: str) -> None:
    module.BATCH = int(batch)
    if int(kill_at):
        fatal_steps(int(kill_at))
    Publisher(Store.open(url), Lakehouse.open(lake)).publish()


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        # Nothing of Polars or Delta ran in this process yet: the child's thread pools are its own.
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                publish(*line.split())
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        print(pid, flush=True)
        _, ended = os.waitpid(pid, 0)
        print(f"gone {os.waitstatus_to_exitcode(ended)}", flush=True)


if __name__ == "__main__":
    main()
