"""A process that works on the accounts until it is killed, and tells what was acknowledged.

    python crash_worker.py FOLDER NUMBER SIDE SEED

Each operation is announced before (`? kind id`) and told after (`ok kind id result`); each line is one write, so a kill
cuts none.  Ids go on where the side file ends.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

from hfthot_platform import LakehouseClient
from hfthot_platform.core.settings import load_settings
from hfthot_platform.services.privacy.rotation import rotate_keys

KINDS = ("register", "login", "update", "count", "publish", "rotate")
#: How often each is done: publishing and rotating are slow and few.
WEIGHTS = (6, 6, 8, 12, 1, 1)


def client_of(folder: Path) -> LakehouseClient:
    """Return a client of the folder whose passwords are cheap to hash, and whose lake has no SQL models to read."""
    (folder / "models").mkdir(exist_ok=True)
    settings = load_settings(
        sql_models=folder / "models",
        lake_root=str(folder / "lake"),
        **{name: folder / name for name in ("accounts", "exports", "certificates", "scratch", "landing")},
        key_file=folder / "keys" / "kek.json",
        argon2_memory_kib=8,
        argon2_passes=1,
        argon2_lanes=1,
        login_failures=1000,
    )
    return LakehouseClient.from_settings(settings)


def name_of(number: int, turn: int) -> str:
    """Return the username of a registration."""
    return f"w{number}.{turn}"


def password_of(name: str) -> str:
    """Return the password of an account."""
    return f"the password of {name}"


def work(client: LakehouseClient, number: int, side: Path, dice: random.Random) -> None:
    """Do one thing after the other, for ever."""
    told = [line.split() for line in side.read_text().splitlines()] if side.exists() else []
    turn = 1 + max((int(line[2]) for line in told), default=0)
    people = {line[3]: line[4] for line in told if line[:2] == ["ok", "register"]}
    handle = os.open(side, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def say(*words: Any) -> None:
        os.write(handle, (" ".join(map(str, words)) + "\n").encode())

    while True:
        kind = dice.choices(KINDS, WEIGHTS)[0] if people else "register"
        name = dice.choice(sorted(people)) if people else ""
        if kind == "register":
            name = name_of(number, turn)
        say("?", kind, turn, name or "-")
        result: Any = "-"
        match kind:
            case "register":
                user = client.register(name, f"{name}@example.org", password_of(name), tier="enterprise")
                result = people[name] = user.user_id
            case "login":
                session = client.login(name, password_of(name))
                result = session.token.get_secret_value() if session.token else "-"
            case "update":
                client.update_user(people[name], last_name=f"Name {turn}")
            case "count":
                client.installation.accounts.count_use(people[name], "optimisations")
            case "publish":
                client.flush()
            case "rotate":
                rotate_keys(client.installation.accounts)
        say("ok", kind, turn, name or "-", result)
        turn += 1


def main() -> None:
    """Work until killed."""
    folder, number, side, seed = sys.argv[1:]
    work(client_of(Path(folder)), int(number), Path(side), random.Random(int(seed)))


if __name__ == "__main__":
    main()
