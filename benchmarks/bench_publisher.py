"""How fast the change log reaches the user tables, and what erasing one of a million users costs there.

    python benchmarks/bench_publisher.py [USERS] [ENTRIES]

Tables hold USERS users with keys, sessions, counters and audit entries of ten days before anything is measured.
Limits: at least 20,000 changes/s; the live rows of one subject gone in far less than 2 s.
"""

from __future__ import annotations

import base64
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from hfthot_platform.services.publication.publisher import Publisher
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.operational.changes import AuditEvent, RowChange
from hfthot_platform.storage.operational.store import Store

DAYS = 10
DAY = 86_400_000_000
START = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1e6)
LOADED = ("bench.load", 1)
RNG = np.random.default_rng(7)


def ids(n: int) -> list[str]:
    raw = RNG.bytes(16 * n)
    return [raw[i : i + 16].hex() for i in range(0, 16 * n, 16)]


def sealed(n: int, size: int) -> list[str]:
    raw = RNG.bytes(n * size)
    return ["e1." + base64.urlsafe_b64encode(raw[i : i + size]).decode().rstrip("=") for i in range(0, n * size, size)]


def times(values: object) -> pl.Series:
    return pl.Series(values, dtype=pl.Int64).cast(pl.Datetime("us", "UTC"))


def load(lake: Lakehouse, subjects: list[str]) -> None:
    """Fill the tables in pieces of at most 250,000 rows."""
    for first in range(0, len(subjects), 250_000):
        part = subjects[first : first + 250_000]
        n = len(part)
        created = times(np.full(n, START))
        seq = pl.Series(np.arange(first + 1, first + n + 1))
        app = (LOADED[0], first + n)
        users = {
            "subject_id": part,
            "username": sealed(n, 38),
            "email": sealed(n, 50),
            "first_name": sealed(n, 34),
            "last_name": sealed(n, 36),
            "role": ["registered"] * n,
            "tier": ["free"] * n,
            "active": [True] * n,
            "data_sharing_consent": [False] * n,
            "created_at": created,
            "updated_at": created,
            "seq": seq,
        }
        lake.table("users").apply(pl.DataFrame(users), app=app)
        keys = {"key_id": ids(n), "subject_id": part, "kind": ["hfthot"] * n, "created_at": created, "seq": seq}
        lake.table("api_keys").apply(pl.DataFrame(keys), app=app)
        begun = times(START + RNG.integers(0, DAYS * DAY, n))
        sessions = {
            "session_id": ids(n),
            "subject_id": part,
            "created_at": begun,
            "expires_at": begun.dt.offset_by("1d"),
            "ip": sealed(n, 40),
            "seq": seq,
        }
        lake.table("sessions").apply(pl.DataFrame(sessions), app=app)
        audit = {
            "seq": seq.cast(pl.Int64) - 10_000_000 + 20_000_000,
            "ts": begun.sort(),
            "subject_id": part,
            "actor_id": ["system"] * n,
            "action": ["session.login"] * n,
            "outcome": ["success"] * n,
            "ip": sealed(n, 40),
            "personal_digest": [digest * 2 for digest in ids(n)],
            "redacted": [False] * n,
            "previous_hash": [digest * 2 for digest in ids(n)],
            "hash": [digest * 2 for digest in ids(n)],
        }
        lake.table("audit_log").apply(pl.DataFrame(audit), app=app)


def user(subject: str, secret: list[str], now: int, tier: str = "free") -> RowChange:
    row = {
        "subject_id": subject,
        "username": secret[0],
        "email": secret[1],
        "first_name": secret[2],
        "last_name": secret[3],
        "preferences": None,
        "role": "registered",
        "tier": tier,
        "active": True,
        "data_sharing_consent": False,
        "created_at": START,
        "updated_at": now,
        "deleted_at": None,
    }
    return RowChange("users", "put", row)


def session(number: str, subject: str, ip: str, now: int, *, ended: bool) -> RowChange:
    row = {
        "session_id": number,
        "subject_id": subject,
        "created_at": now,
        "expires_at": now + DAY,
        "ended_at": now if ended else None,
        "end_reason": "logout" if ended else None,
        "ip": ip,
        "user_agent": None,
    }
    return RowChange("sessions", "put", row)


def usage(subject: str, used: int, now: int) -> RowChange:
    row = {
        "subject_id": subject,
        "resource": "requests",
        "used": used,
        "used_today": used,
        "quota": 10_000,
        "remaining": 10_000 - used,
        "resets_at": now + DAY,
        "updated_at": now,
    }
    return RowChange("usage", "put", row)


def key(number: str, subject: str, now: int) -> RowChange:
    row = {
        "key_id": number,
        "subject_id": subject,
        "kind": "hfthot",
        "provider": None,
        "tier": "free",
        "prefix": "hft_free_abcd",
        "secret": None,
        "created_at": now,
        "revoked_at": None,
        "replaced_by": None,
    }
    return RowChange("api_keys", "put", row)


def changes(subjects: list[str], n: int) -> Iterator[tuple[list[RowChange], AuditEvent]]:
    """Yield a day's mix: mostly counters, then sign-ins and -outs, attempts, registrations, keys, updates."""
    now = START + DAYS * DAY
    new, numbers, secrets = ids(n), ids(n), sealed(4 * n, 40)
    whose = RNG.integers(0, len(subjects), n)
    for i, dice in enumerate(RNG.random(n)):
        subject = subjects[whose[i]]
        now += 1000
        secret = secrets[4 * i : 4 * i + 4]
        match dice:
            case _ if dice < 0.50:
                yield [usage(subject, i % 9000, now)], AuditEvent(action="quota.increment", subject_id=subject)
            case _ if dice < 0.70:
                rows = [session(numbers[i], subject, secret[0], now, ended=False)]
                yield rows, AuditEvent(action="session.login", subject_id=subject, ip=secret[1], user_agent=secret[2])
            case _ if dice < 0.78:
                rows = [session(numbers[i], subject, secret[0], now, ended=True)]
                yield rows, AuditEvent(action="session.logout", subject_id=subject)
            case _ if dice < 0.88:
                yield [], AuditEvent(action="user.read", subject_id=subject, actor_id=subject, ip=secret[1])
            case _ if dice < 0.93:
                yield [user(new[i], secret, now)], AuditEvent(action="user.register", subject_id=new[i], ip=secret[1])
            case _ if dice < 0.97:
                yield [key(numbers[i], subject, now)], AuditEvent(action="api_key.generate", subject_id=subject)
            case _:
                rows = [user(subject, secret, now, "professional")]
                yield rows, AuditEvent(action="user.upgrade_tier", subject_id=subject)


def log(store: Store, subjects: list[str], n: int) -> None:
    pending = list(changes(subjects, n))
    for first in range(0, n, 2000):
        with store.transaction() as tx:
            for rows, audit in pending[first : first + 2000]:
                tx.log(rows, audit)


def main() -> None:
    n_users = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    n_entries = int(sys.argv[2]) if len(sys.argv) > 2 else 200_000
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(f"sqlite:///{folder}/accounts")
        lake = Lakehouse.open(Path(folder) / "lake")
        subjects = sorted(ids(n_users))
        started = time.perf_counter()
        load(lake, subjects)
        print(f"{n_users:,} users, keys, sessions and audit entries loaded in {time.perf_counter() - started:.1f} s")
        log(store, subjects, n_entries)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        started, worked = time.perf_counter(), time.process_time()
        done = Publisher(store, lake).publish()
        seconds, worked = time.perf_counter() - started, time.process_time() - worked
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rows = sum(commit.rows_published for commit in done.commits)
        print(f"publish {done.entries:,} entries ({rows:,} rows after folding): {seconds:.2f} s", end=" ")
        print(f"= {done.entries / seconds:,.0f} changes/s (limit 20,000), {worked:.2f} s of CPU,", end=" ")
        print(f"{len(done.commits)} commits,", end=" ")
        print(f"{sum(commit.bytes_added for commit in done.commits) / 1e6:,.0f} MB written, peak memory", end=" ")
        print(f"{before / 1024:.0f} -> {after / 1024:.0f} MB")

        victim = subjects[n_users // 3]
        tables = ("users", "sessions", "api_keys", "usage", "audit_log")
        with store.transaction() as tx:
            tx.log(
                [RowChange(name, "forget", {"subject_id": victim}) for name in tables], AuditEvent(action="user.erase")
            )
        started = time.perf_counter()
        done = Publisher(store, lake).publish()
        seconds = time.perf_counter() - started
        gone = sum(commit.rows_forgotten for commit in done.commits)
        print(f"erase the rows of one of {n_users:,} users: {seconds:.2f} s (limit 2), {gone} rows in", end=" ")
        print(", ".join(f"{commit.table} {commit.seconds:.2f} s" for commit in done.commits))

        with store.transaction() as tx:
            tx.log([], AuditEvent(action="user.read"))
        started = time.perf_counter()
        Publisher(store, lake).publish()
        print(f"publish one audit entry: {(time.perf_counter() - started) * 1000:.0f} ms")
        store.close()


if __name__ == "__main__":
    main()
