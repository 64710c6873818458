"""Many processes that do the same things at once; used by the fast test and by the soak."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import subprocess
import sys
from collections import Counter
from pathlib import Path

import sqlalchemy as sa

from hfthot_platform.core.errors import DuplicateAccountError, QuotaExceededError, RevokedTokenError
from hfthot_platform.core.settings import Settings, load_settings
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.storage.operational import schema

PASSWORD = "correct horse battery"
REPOSITORY = Path(__file__).resolve().parent.parent.parent


def run(settings: Settings, task: str, processes: int, **given) -> list[dict]:
    """Run a task in so many processes that begin together; return what each reports."""
    options = {
        "lake_root": settings.lake_root,
        "accounts": str(settings.accounts),
        "key_file": str(settings.key_file),
        "accounts_url": settings.accounts_url and settings.accounts_url.get_secret_value(),
        "argon2_memory_kib": 8,
        "argon2_passes": 1,
        "argon2_lanes": 1,
    }
    # One interpreter that imports once, and forks; a fresh one each would spend its life importing.
    done = subprocess.run(
        [sys.executable, "-m", "tests.accounts.crowd"],
        input=json.dumps({"settings": options, "task": task, "processes": processes, "given": given}),
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        timeout=600,
        check=True,
    )
    reports = json.loads(done.stdout)
    assert len(reports) == processes
    return reports


def register(accounts: Accounts, number: int, names: int) -> dict:
    """Register all names; every process does the same."""
    made, refused = [], 0
    for turn in range(names):
        name = (turn + number * 37) % names
        try:
            made.append(accounts.register(f"user{name}", f"user{name}@example.org", PASSWORD).username)
        except DuplicateAccountError:
            refused += 1
    return {"made": made, "refused": refused}


def count(accounts: Accounts, number: int, user_id: str, provider: str, times: int) -> dict:
    """Count queries one by one until they are done or the quota is."""
    done = refused = 0
    for _ in range(times):
        try:
            accounts.update_query_count(user_id, provider)
            done += 1
        except QuotaExceededError:
            refused += 1
    return {"done": done, "refused": refused}


def sessions(accounts: Accounts, number: int, rounds: int) -> dict:
    """Sign in, keep one session, end others; all of it as the same user as everybody else."""
    kept, ended = [], []
    for _ in range(rounds):
        keep, end = accounts.login("alice", PASSWORD), accounts.login("alice", PASSWORD)
        accounts.logout(end.token)
        kept.append(keep.token.get_secret_value())
        ended.append(end.token.get_secret_value())
    return {"kept": kept, "ended": ended}


def check_registrations(accounts: Accounts, reports: list[dict], names: int) -> None:
    made = Counter(name for report in reports for name in report["made"])
    assert made == Counter({f"user{number}": 1 for number in range(names)})
    assert sum(report["refused"] for report in reports) == names * (len(reports) - 1)
    users, after = [], None
    while page := accounts.list_users(limit=1000, after=after):
        users += page
        after = page[-1].user_id
    assert {user.username for user in users} == set(made)
    with accounts.store.reading() as rx:
        for table in (schema.users, schema.subjects):
            assert rx.execute(sa.select(sa.func.count()).select_from(table)).scalar() == names
    check_log(accounts)


def check_log(accounts: Accounts) -> None:
    """The log has no gap and no fork."""
    entries = accounts.store.entries(0, 1_000_000)
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert all(b.previous_hash == a.hash for a, b in itertools.pairwise(entries))
    assert accounts.store.head() == (entries[-1].seq, entries[-1].hash)


def check_sessions(accounts: Accounts, reports: list[dict]) -> None:
    kept = [token for report in reports for token in report["kept"]]
    ended = [token for report in reports for token in report["ended"]]
    assert len(set(kept + ended)) == len(kept) + len(ended)
    for token in kept:
        accounts.verify_token(token)
    for token in ended:
        try:
            accounts.verify_token(token)
        except RevokedTokenError:
            continue
        raise AssertionError("a session that was ended is still open")


def work(options: dict, task: str, number: int, given: dict, together, reports) -> None:
    with Accounts.open(load_settings(**options)) as accounts:
        together.wait(60)
        reports.put(globals()[task](accounts, number, **given))


def main() -> None:
    asked = json.load(sys.stdin)
    context = multiprocessing.get_context("fork")
    together, reports = context.Barrier(asked["processes"]), context.Queue()
    started = [
        context.Process(target=work, args=(asked["settings"], asked["task"], number, asked["given"], together, reports))
        for number in range(asked["processes"])
    ]
    for process in started:
        process.start()
    print(json.dumps([reports.get(timeout=600) for _ in started]))
    for process in started:
        process.join()
        assert process.exitcode == 0


if __name__ == "__main__":
    main()
