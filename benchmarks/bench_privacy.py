"""How fast personal data is searched, exported and erased.

    python benchmarks/bench_privacy.py [USERS] [AUDIT_ROWS]

A store and a lake of USERS (default 1,000,000) accounts, of whom one has AUDIT_ROWS (default 100,000) entries in the
audit log, are made in a temporary folder; making them is not measured.  Limits of the project: erasing one of a
million users (keys, identity, live rows) within 2 s, the proof's search at 400 MB/s or more, an export with 100,000
audit rows within 2 s.  Peer: see docs/privacy.md.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import sqlalchemy as sa

from hfthot_platform.core.settings import load_settings
from hfthot_platform.domain.contracts.accounts import AUDIT_LOG
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.privacy.erasure import destroy, run_erasure
from hfthot_platform.services.privacy.erasure_requests import load_request, request_erasure
from hfthot_platform.services.privacy.export import export_user_data
from hfthot_platform.services.privacy.proof.scan import Folder, Needle, scan
from hfthot_platform.services.publication.publisher import Publisher, flush
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.changes import AuditEvent

ERASE_SECONDS, EXPORT_SECONDS, SCAN_MB = 2.0, 2.0, 400.0


def line(what: str, value: float, unit: str, limit: float, *, least: bool = False) -> None:
    """Print a figure beside its limit."""
    met = value >= limit if least else value <= limit
    print(f"{what:<58}{value:>10.2f} {unit:<6}{'at least' if least else 'at most'} {limit:g}: {'yes' if met else 'NO'}")


def populate(accounts: Accounts, lake: Lakehouse, users: int) -> None:
    """Write accounts straight into store and lake, as registrations would have left them, keys and all."""
    vault, now = accounts.vault, datetime.now(UTC)
    ts = round(now.timestamp() * 1e6)
    for start in range(0, users, 50_000):
        size = min(50_000, users - start)
        subjects = [secrets.token_hex(16) for _ in range(size)]
        keys, rows = [], []
        for number, subject in enumerate(subjects, start):
            wrapped = vault.new_key()
            keys.append(
                {"subject_id": subject, "category": "identity", "kek_id": wrapped.kek_id, "wrapped": wrapped.blob}
            )
            cipher = vault.cipher(subject, wrapped)
            rows.append(
                {
                    "user_id": secrets.token_hex(16),
                    "subject_id": subject,
                    "username_lookup": secrets.token_bytes(32),
                    "email_lookup": secrets.token_bytes(32),
                    "username": cipher.encrypt("users", "username", f"somebody{number}"),
                    "email": cipher.encrypt("users", "email", f"somebody{number}@example.org"),
                    "password_hash": "none",
                    "role": "registered",
                    "tier": "free",
                    "active": True,
                    "data_sharing_consent": False,
                    "created_at": ts,
                    "updated_at": ts,
                }
            )
        with accounts.store.transaction() as tx:
            tx.execute(sa.insert(schema.subjects), [{"subject_id": subject, "created_at": ts} for subject in subjects])
            tx.execute(sa.insert(schema.subject_keys), keys)
            tx.execute(sa.insert(schema.users), rows)
        frame = pl.DataFrame(rows).select(
            "subject_id", "username", "email", "role", "tier", "active", "data_sharing_consent"
        )
        none = pl.lit(None, dtype=pl.String)
        lake.table("users").append(
            frame.with_columns(
                none.alias("first_name"),
                none.alias("last_name"),
                none.alias("preferences"),
                pl.lit(now).dt.cast_time_unit("us").alias("created_at"),
                pl.lit(now).dt.cast_time_unit("us").alias("updated_at"),
                pl.lit(None, dtype=pl.Datetime("us", "UTC")).alias("deleted_at"),
                pl.lit(1, dtype=pl.Int64).alias("seq"),
            )
        )


def act(accounts: Accounts, user_id: str, rows: int) -> None:
    """Let a person be audited many times."""
    subject = accounts.subject_of(user_id)
    done = 0
    while done < rows:
        with accounts.store.transaction() as tx:
            cipher = accounts.cipher(tx, subject, "audit")
            for _ in range(min(2_000, rows - done)):
                ip = cipher.encrypt(AUDIT_LOG.name, "ip", "203.0.113.9")
                agent = cipher.encrypt(AUDIT_LOG.name, "user_agent", "Bench/1.0 (made up)")
                tx.log([], AuditEvent(action="table.read", subject_id=subject, ip=ip, user_agent=agent))
                done += 1


def search(folder: Path) -> None:
    """Measure the search over market data, encrypted users and logs."""
    folder.mkdir()
    dice = np.random.default_rng(1)
    size = 2_000_000
    for part in range(4):
        pl.DataFrame(
            {
                "ts": np.cumsum(dice.integers(0, 9999, size)),
                "price": dice.normal(size=size),
                "amount": dice.random(size),
                "symbol": pl.Series(dice.integers(0, 2, size)).replace_strict({0: "BTC-USDT", 1: "ETH-USDT"}),
            }
        ).write_parquet(folder / f"market{part}.parquet")
    sealed = [f"e1.{secrets.token_urlsafe(60)}" for _ in range(300_000)]
    ids = [secrets.token_hex(16) for _ in range(300_000)]
    pl.DataFrame({"subject_id": ids, "email": sealed}).write_parquet(folder / "users.parquet")
    logged = b'{"event_type":"STEP_SUCCESS","message":"Finished execution of step","timestamp":1712345678.123}\n'
    (folder / "events.log").write_bytes(logged * 1_000_000)
    needles = [
        Needle("email", "somebody.special@example.org"),
        Needle("username", "somebody_special", whole_word=True),
        Needle("first_name", "Somebodina", whole_word=True),
        Needle("last_name", "Specialovna", whole_word=True),
        Needle("full_name", "Somebodina Specialovna"),
        Needle("ip", "203.0.113.9", whole_word=True),
        Needle("user_agent", "Bench/1.0 (made up)"),
        Needle("user_id", secrets.token_hex(16)),
        *(Needle("token_hash", secrets.token_bytes(32)) for _ in range(20)),
    ]
    place = Folder("bench", folder)
    scan(needles, [place])
    used = time.process_time()
    report = scan(needles, [place])
    used = time.process_time() - used
    assert report.clean
    line(
        f"search of {report.bytes / 1e6:.0f} MB (+ {report.bytes_decoded / 1e6:.0f} MB decoded), {len(needles)} values",
        report.bytes / report.seconds / 1e6,
        "MB/s",
        SCAN_MB,
        least=True,
    )
    # Tells more than the wall time does on a machine that is busy with something else.
    print(f"  processor time {used:.2f} s on {os.cpu_count()} processors")


def main() -> None:
    users = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    rows = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    with tempfile.TemporaryDirectory(prefix="bench-privacy-") as name:
        work = Path(name)
        search(work / "search")
        settings = load_settings(
            lake_root=str(work / "lake"),
            accounts=work / "accounts",
            key_file=work / "keys" / "kek.json",
            landing=work / "landing",
            scratch=work / "scratch",
            exports=work / "exports",
            certificates=work / "certificates",
        )
        lake = Lakehouse.open(settings.lake_root)
        with Accounts.open(settings) as accounts:
            user = accounts.register("busy_body", "busy.body@example.org", "a long enough password")
            act(accounts, user.user_id, rows)
            other = accounts.register("quiet_body", "quiet.body@example.org", "a long enough password")
            flush(accounts.store, lake)
            populate(accounts, lake, users)

            used, started = time.process_time(), time.perf_counter()
            path = export_user_data(accounts, lake, user.user_id)
            size = path.stat().st_size / 1e6
            what = f"export with {rows:,} audit rows ({size:.0f} MB of JSON)"
            line(what, time.perf_counter() - started, "s", EXPORT_SECONDS)
            print(f"  processor time {time.process_time() - used:.2f} s")

            for whom, told in ((other, "nobody special"), (user, f"one with {rows:,} audit rows")):
                request_id = request_erasure(accounts, whom.user_id)
                erasure = load_request(accounts, request_id)
                used, started = time.process_time(), time.perf_counter()
                destroy(accounts, lake, erasure)
                Publisher(accounts.store, lake).publish()
                what = f"erasure among {users:,} users, keys, identity, live rows: {told}"
                line(what, time.perf_counter() - started, "s", ERASE_SECONDS)
                print(f"  processor time {time.process_time() - used:.2f} s")
                started = time.perf_counter()
                certificate = run_erasure(accounts, lake, request_id)
                found = certificate.verification
                seconds = time.perf_counter() - started
                print(
                    f"  purge, vacuum and proof: {seconds:.1f} s, of which the search of "
                    f"{found['scanned_bytes'] / 1e6:.0f} MB took {found['scan_seconds']:.1f} s "
                    f"({found['scanned_bytes'] / found['scan_seconds'] / 1e6:.0f} MB/s); "
                    f"{found['envelopes_decrypted']:,} values of others decrypted"
                )


if __name__ == "__main__":
    main()
