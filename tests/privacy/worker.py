"""A process that erases, vacuums, applies retention or rotates keys until it is killed; run by the crash tests.

    python worker.py WORK KIND

WORK holds the store, the lake and `clock.txt`, whose time is everybody's.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path

from hfthot_platform.core.settings import Settings, load_settings
from hfthot_platform.domain.contracts.accounts import USER_TABLES
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.privacy.erasure import run_erasure
from hfthot_platform.services.privacy.erasure_requests import pending_erasures
from hfthot_platform.services.privacy.retention import apply_retention
from hfthot_platform.services.privacy.rotation import rotate_keys
from hfthot_platform.services.publication.publisher import flush
from hfthot_platform.storage.lakehouse import Lakehouse, accept_clock, maintain


def settings_of(work: Path) -> Settings:
    return load_settings(
        lake_root=str(work / "lake"),
        landing=work / "landing",
        scratch=work / "scratch",
        accounts=work / "accounts",
        key_file=work / "keys" / "kek.json",
        exports=work / "exports",
        certificates=work / "certificates",
        argon2_memory_kib=8,
        argon2_passes=1,
        argon2_lanes=1,
        audit_retention_days=30,
        session_retention_days=60,
        feeds=[],
    )


def clock_of(work: Path):
    return lambda: datetime.fromisoformat((work / "clock.txt").read_text())


def main() -> None:
    work, kind = Path(sys.argv[1]), sys.argv[2]
    os.environ["DAGSTER_HOME"] = str(work / "dagster_home")
    settings, clock = settings_of(work), clock_of(work)
    lake = Lakehouse.open(settings.lake_root, clock=clock, new=True)
    with Accounts.open(settings, clock) as accounts:
        while True:
            if kind == "erase":
                for request_id in pending_erasures(accounts):
                    run_erasure(accounts, lake, request_id)
            elif kind == "vacuum":
                for contract in USER_TABLES:
                    maintain(lake, contract.name, history_days=0)
            elif kind == "retention":
                accept_clock(lake)
                accounts.store.accept_clock()
                apply_retention(accounts, lake)
            elif kind == "rotate":
                rotate_keys(accounts)
            else:
                accounts.flush()
                flush(accounts.store, lake)


if __name__ == "__main__":
    main()
