"""Verifying keys and tokens among a million, durable quota increments, registrations, sign-ins, destruction.

    python benchmarks/bench_accounts.py [keys in millions] [PostgreSQL URL of an empty database]

Without a URL the store is SQLite in a temporary folder (TMPDIR says
on which disk).  Every increment is its own
transaction with its own audit entry, and is on the disk before the call returns.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import statistics
import sys
import tempfile
import threading
import time
from hashlib import sha256
from pathlib import Path

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from hfthot_platform.core.settings import Settings, load_settings
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.accounts.passwords import Passwords
from hfthot_platform.services.privacy.rotation import rotate_keys
from hfthot_platform.storage.operational import schema

PASSWORD = "correct horse battery"
SAMPLE = 5000
SECONDS = 3.0
CHUNK = 50_000


def settings_of(folder: str, url: str | None) -> Settings:
    return load_settings(
        lake_root=f"{folder}/lake",
        accounts=Path(folder) / "accounts",
        key_file=Path(folder) / "keys" / "kek.json",
        accounts_url=url,
        feeds=[],
    )


def fill(accounts: Accounts, start: int, stop: int) -> list[tuple[str, str]]:
    """Add accounts with a key and a session each, straight into the tables; return some keys and tokens."""
    sample, every = [], max(1, stop // SAMPLE)
    cipher = accounts.vault.cipher("0" * 32, accounts.vault.new_key())
    sealed = cipher.encrypt("users", "username", "somebody@example.org")
    kek, wrapped = accounts.vault.ring.current_id, accounts.vault.new_key().blob
    for first in range(start, stop, CHUNK):
        rows: dict[sa.Table, list[dict]] = {table: [] for table in TABLES}
        for number in range(first, min(stop, first + CHUNK)):
            user_id, subject_id, token = secrets.token_hex(16), secrets.token_hex(16), secrets.token_urlsafe(32)
            key = "hft_free_" + secrets.token_urlsafe(32)
            if number % every == 0:
                sample.append((key, token))
            rows[schema.subjects].append({"subject_id": subject_id, "created_at": 1})
            rows[schema.subject_keys].append(
                {"subject_id": subject_id, "category": "identity", "kek_id": kek, "wrapped": wrapped}
            )
            rows[schema.users].append(
                {
                    "user_id": user_id,
                    "subject_id": subject_id,
                    "username_lookup": secrets.token_bytes(32),
                    "email_lookup": secrets.token_bytes(32),
                    "username": sealed,
                    "email": sealed,
                    "password_hash": "x" * 97,
                    "role": "registered",
                    "tier": "free",
                    "active": True,
                    "data_sharing_consent": False,
                    "created_at": 1,
                    "updated_at": 1,
                }
            )
            rows[schema.api_keys].append(
                {
                    "key_hash": sha256(key.encode()).digest(),
                    "key_id": secrets.token_hex(16),
                    "subject_id": subject_id,
                    "tier": "free",
                    "prefix": key[:13],
                    "created_at": 1,
                }
            )
            rows[schema.sessions].append(
                {
                    "token_hash": sha256(token.encode()).digest(),
                    "session_id": secrets.token_hex(16),
                    "subject_id": subject_id,
                    "created_at": 1,
                    "expires_at": 4_102_444_800_000_000,
                }
            )
        with accounts.store.transaction() as tx:
            if accounts.store.url.get_backend_name() == "sqlite":
                tx.execute(sa.text("PRAGMA cache_size = -300000"))
            for table in TABLES:
                tx.execute(sa.insert(table), rows[table])
    return sample


TABLES = (schema.subjects, schema.subject_keys, schema.users, schema.api_keys, schema.sessions)


def latencies(call, arguments) -> tuple[float, float]:
    """Return median and 99th percentile in microseconds."""
    times = []
    for argument in arguments:
        start = time.perf_counter()
        call(argument)
        times.append((time.perf_counter() - start) * 1e6)
    times.sort()
    return statistics.median(times), times[int(0.99 * len(times))]


def increments(settings: Settings, users: list[str], processes: int, threads: int) -> float:
    """Return durable increments per second."""
    return _together(_increment, settings, users, processes, threads)


def _increment(accounts: Accounts, users: list[str], number: int) -> None:
    accounts.update_query_count(users[number % len(users)], "binance")


def registrations(settings: Settings, processes: int, threads: int) -> float:
    """Return registrations per second, the password's hash given."""
    return _together(_register, settings, [], processes, threads)


def _register(accounts: Accounts, _users: list[str], _number: int) -> None:
    name = secrets.token_hex(12)
    accounts.register(name, f"{name}@example.org", PASSWORD)


def _together(call, settings: Settings, users: list[str], processes: int, threads: int) -> float:
    context = multiprocessing.get_context("fork")
    together, counts = context.Barrier(processes), context.Queue()
    started = [
        context.Process(target=_work, args=(call, settings, users, threads, number, together, counts))
        for number in range(processes)
    ]
    for process in started:
        process.start()
    total = sum(counts.get() for _ in started)
    for process in started:
        process.join()
    return total / SECONDS


def _work(call, settings, users, threads, number, together, counts) -> None:
    Passwords.hash = lambda _self, _password: "given"
    with Accounts.open(settings) as accounts:
        done = [0] * threads
        together.wait()
        end = time.perf_counter() + SECONDS

        def run(thread: int) -> None:
            while time.perf_counter() < end:
                call(accounts, users, 1000 * number + 100 * thread + done[thread])
                done[thread] += 1

        workers = [threading.Thread(target=run, args=(thread,)) for thread in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        counts.put(sum(done))


def once(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    n = int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 1_000_000
    url = sys.argv[2] if len(sys.argv) > 2 else None
    kind = "PostgreSQL" if url else "SQLite"
    table = Table(title=f"{kind}, {n:,} accounts, each with a key and a session")
    for title in ("what", "result", "limit"):
        table.add_column(title, justify="left" if title == "what" else "right")
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(folder, url)
        # Rates first: they fork, and a small store is what a fresh installation has.
        with Accounts.open(settings) as accounts:
            users = []
            for number in range(64):
                user = accounts.register(f"u{number}", f"u{number}@example.org", PASSWORD)
                own = {"api_key": "k", "queries_limit": None}
                accounts.save_api_keys(user.user_id, {"binance": own})
                users.append(user.user_id)
            sign_in = [once(lambda: accounts.login("u0", PASSWORD)) for _ in range(5)]
            sample = fill(accounts, 0, 1000)
        probe = Path(folder) / "probe"
        with probe.open("wb", buffering=0) as file:
            synced = []
            for _ in range(200):
                file.write(b"x" * 4096)
                synced.append(once(lambda: os.fdatasync(file.fileno())))
        table.add_row("fdatasync of the disk, median", f"{statistics.median(synced) * 1e6:.0f} us", "")
        for processes, threads, limit in ((4, 8, ">= 5,000/s"), (4, 1, ""), (1, 8, ""), (1, 1, "")):
            rate = increments(settings, users, processes, threads)
            what = f"durable increments, {processes} process(es) x {threads} thread(s)"
            table.add_row(what, f"{rate:,.0f}/s", limit)
        table.add_row("registrations without Argon2, 4 x 4", f"{registrations(settings, 4, 4):,.0f}/s", "")
        table.add_row("sign-in, Argon2id 64 MiB, 3 passes, 4 lanes", f"{statistics.median(sign_in) * 1e3:.0f} ms", "")
        with Accounts.open(settings) as accounts:
            for size in (1000, n):
                if size == n:
                    started = time.perf_counter()
                    sample = fill(accounts, 1000, n)
                    print(f"filled in {time.perf_counter() - started:.0f} s", file=sys.stderr)
                    with accounts.store.transaction() as tx:
                        if not url:
                            tx.execute(sa.text("PRAGMA cache_size = -16384"))
                for what, call, arguments in (
                    ("verify_api_key", accounts.verify_api_key, [key for key, _ in sample]),
                    ("verify_token", accounts.verify_token, [token for _, token in sample]),
                ):
                    # The first pass brings the pages into memory, as hours of use do.
                    latencies(call, arguments)
                    median, worst = latencies(call, arguments)
                    limit = "<= 100 us" if size == n else ""
                    table.add_row(f"{what} among {size:,}, median (99 %)", f"{median:.0f} us ({worst:.0f})", limit)
            accounts.flush()

            def destroy() -> None:
                subject = accounts.subject_of(users[0])
                with accounts.store.transaction() as tx:
                    accounts.destroy(tx, subject)

            table.add_row("destroy one account in the store", f"{once(destroy) * 1e3:.1f} ms", "<= 2 s with the lake")
            size = sum(path.stat().st_size for path in accounts.store.files()) / 1e6
            purging = once(accounts.store.purge)
            table.add_row(f"purge: rewrite the store ({size:,.0f} MB)", f"{purging:.1f} s", "")
            rotating = once(lambda: rotate_keys(accounts))
            table.add_row(f"key rotation, {n:,} data keys", f"{rotating:.1f} s ({n / rotating:,.0f}/s)", "")
    Console().print(table)


if __name__ == "__main__":
    main()
