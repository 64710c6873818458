"""No secret and nothing personal in an exception, its traceback with local variables, a log, or what is printed."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import logging
import sqlite3
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console
from rich.traceback import Traceback

from hfthot_platform import LakehouseClient
from hfthot_platform.core.errors import HfthotError

from .calls import ARGUMENTS, Scene, public

WORD = "Zq7xCanary"
SECRET = f"{WORD}-secret-0123456789"
PERSON = f"{WORD}.person"
EMAIL = f"{WORD}@example.org"


class Attempt:
    """A call whose arguments do not show in this test's own frames."""

    def __init__(self, work: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        self._call = (work, arguments, named)

    def __repr__(self) -> str:
        return "Attempt()"

    def __call__(self) -> Exception:
        try:
            work, arguments, named = self._call
            del self
            work(*Hidden(arguments), **Hidden(named))
        except Exception as error:
            return error
        raise AssertionError("the call went through")


class Hidden:
    """Unpacks like what it hides, and shows nothing."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __iter__(self):
        return iter(self._value)

    def keys(self):
        return self._value.keys()

    def __getitem__(self, name):
        return self._value[name]


def shown(error: BaseException, *, pretty: bool = False) -> str:
    """Return everything that tools show of an exception: messages, causes, tracebacks with local variables.

    `pretty` adds what rich prints, which takes a tenth of a second.
    """
    texts = [repr(error), str(error), repr(getattr(error, "args", ()))]
    skipped = error.__traceback__.tb_next  # the frame of Attempt, which is the test's
    error = error.with_traceback(skipped)
    plain = traceback.TracebackException.from_exception(error, capture_locals=True)
    texts += plain.format()
    if pretty:
        out = io.StringIO()
        trace = Traceback.from_exception(type(error), error, skipped, show_locals=True, locals_max_string=None)
        Console(file=out, width=400).print(trace)
        texts.append(out.getvalue())
    waiting, seen = [error], set()
    while waiting:
        cause = waiting.pop()
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        texts += [repr(cause), repr(vars(cause))]
        frame = cause.__traceback__
        while frame is not None:
            if "/hfthot_platform/" in frame.tb_frame.f_code.co_filename:
                texts.append(repr(frame.tb_frame.f_locals))
            frame = frame.tb_next
        waiting += [cause.__cause__, cause.__context__]
    return "\n".join(texts)


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("sqlalchemy.engine").setLevel(logging.INFO)
    yield caplog
    logging.getLogger("sqlalchemy.engine").setLevel(logging.NOTSET)


@pytest.fixture
def scene(client):
    """Return a client, an account full of canaries, and what opens it."""
    user = client.register(PERSON, EMAIL, SECRET, PERSON, PERSON)
    client.save_api_keys(user.user_id, {"finnhub": SECRET})
    client.update_user(user.user_id, preferences={"note": SECRET})
    here = client.for_request(ip=f"{WORD}.ip", user_agent=f"{WORD} agent")
    token = here.login(PERSON, SECRET).token.get_secret_value()
    key = client.generate_hfthot_api_key(user.user_id).key.get_secret_value()
    return here, user.user_id, token, key


def failures(here: LakehouseClient, user_id: str, token: str, key: str) -> dict[str, Attempt]:
    """Return a failing call for each way that a call with something secret or personal in it can fail."""
    return {
        "wrong password": Attempt(here.login, PERSON, SECRET + "!"),
        "unknown user": Attempt(here.login, f"{WORD}.nobody", SECRET),
        "wrong address": Attempt(here.login, f"{WORD}@nowhere.example", SECRET),
        "username taken": Attempt(here.register, PERSON, f"other.{EMAIL}", SECRET),
        "address taken": Attempt(here.register, f"{WORD}.other", EMAIL, SECRET),
        "not an address": Attempt(here.register, f"{WORD}.other", f"{WORD} at example", SECRET),
        "not a domain": Attempt(here.register, f"{WORD}.other", f"x@{WORD}..example", SECRET),
        "not a name": Attempt(here.register, f"{WORD}\x07", f"other.{EMAIL}", SECRET),
        "long name": Attempt(here.register, PERSON * 100, EMAIL, SECRET),
        "short password": Attempt(here.register, f"{WORD}.other", f"other.{EMAIL}", WORD[:7]),
        "long password": Attempt(here.register, f"{WORD}.other", f"other.{EMAIL}", SECRET * 1000),
        "bytes": Attempt(here.register, f"{WORD}.other", f"other.{EMAIL}", SECRET.encode()),
        "no text": Attempt(here.login, {"name": PERSON}, [SECRET]),
        "surrogate": Attempt(here.login, PERSON, SECRET + "\ud800"),
        "unknown tier": Attempt(here.register, f"{WORD}.other", f"other.{EMAIL}", SECRET, None, None, SECRET),
        "forged token": Attempt(here.verify_token, SECRET),
        "altered token": Attempt(here.verify_token, token[:-1] + "_"),
        "altered key": Attempt(here.verify_api_key, key[:-1] + "_"),
        "no key": Attempt(here.verify_api_key, [SECRET]),
        "logout": Attempt(here.logout, SECRET),
        "old password": Attempt(here.change_password, user_id, SECRET + "!", SECRET + "?"),
        "same password": Attempt(here.change_password, user_id, SECRET, SECRET),
        "new password": Attempt(here.change_password, user_id, SECRET, WORD[:7]),
        "address of another": Attempt(here.update_user, user_id, email=f"{WORD}@@"),
        "no such field": Attempt(here.update_user, user_id, **{SECRET: PERSON}),
        "preferences": Attempt(here.update_user, user_id, preferences={SECRET: object()}),
        "provider": Attempt(here.save_api_keys, user_id, {SECRET: SECRET}),
        "too many providers": Attempt(
            here.save_api_keys, user_id, {f"{WORD[:7].lower()}_{number}": SECRET for number in range(21)}
        ),
        "a made-up provider's shape": Attempt(here.save_api_keys, user_id, {WORD[:7].lower(): {SECRET: SECRET}}),
        "provider's key": Attempt(here.save_api_keys, user_id, {"finnhub": SECRET * 1000}),
        "provider's plan": Attempt(
            here.save_api_keys, user_id, {"finnhub": {"api_key": SECRET, "queries_limit": SECRET}}
        ),
        "provider's shape": Attempt(here.save_api_keys, user_id, {"finnhub": {SECRET: SECRET}}),
        "no mapping": Attempt(here.save_api_keys, user_id, [SECRET]),
        "consent": Attempt(here.save_api_keys, user_id, {"finnhub": SECRET}, SECRET),
        "id": Attempt(here.get_user, SECRET),
        "ids": Attempt(here.revoke_api_key, user_id, SECRET),
        "role": Attempt(here.set_role, user_id, SECRET),
        "folder": Attempt(LakehouseClient, f"s3://{SECRET}/lake", SECRET),
        "not a key": Attempt(LakehouseClient, here.installation.settings.accounts.parent, SECRET),
        "format": Attempt(here.export_user_data, user_id, SECRET),
        "action": Attempt(here.get_audit_log, SECRET, None, None, SECRET),
        "parameter": Attempt(here.sql, "SELECT nothing FROM market.bars WHERE symbol = $s", {"s": SECRET}),
        "address": Attempt(here.for_request, [SECRET], SECRET),
    }  # fmt: skip


def test_no_error_tells_a_secret(scene, logged, capsys):
    told = {}
    for name, attempt in failures(*scene).items():
        error = attempt()
        assert isinstance(error, HfthotError), f"{name}: {type(error).__name__}"
        if WORD[:7] in (text := shown(error)):
            told[name] = [line for line in text.splitlines() if WORD[:7] in line][:3]

    assert told == {}
    printed = capsys.readouterr()
    assert WORD not in logged.text + printed.out + printed.err


def test_nor_when_sign_ins_are_refused_for_a_while(scene, logged):
    here, user_id, *_ = scene
    errors = [Attempt(here.login, PERSON, SECRET + str(number))() for number in range(7)]
    errors.append(Attempt(here.change_password, user_id, SECRET + "!", SECRET + "?")())

    assert {type(error).__name__ for error in errors} == {"InvalidCredentialsError", "TooManyAttemptsError"}
    assert WORD not in "".join(shown(error) for error in errors) + shown(errors[0], pretty=True) + logged.text


@pytest.mark.parametrize("table", ["users", "sessions", "provider_keys", "change_log", "subject_keys", "keys"])
def test_nor_when_the_store_is_broken(scene, logged, table):
    here, user_id, token, key = scene
    here.close()
    with sqlite3.connect(here.installation.settings.accounts / "accounts.db") as database:
        database.execute("PRAGMA foreign_keys = OFF")
        database.execute(f"ALTER TABLE {table} RENAME TO gone")
    database.close()

    attempts = [
        Attempt(here.login, PERSON, SECRET),
        Attempt(here.register, f"{WORD}.other", f"other.{EMAIL}", SECRET),
        Attempt(here.save_api_keys, user_id, {"finnhub": SECRET}),
        Attempt(here.change_password, user_id, SECRET, SECRET + "?"),
        Attempt(here.verify_token, token),
        Attempt(here.verify_api_key, key),
        Attempt(here.get_user, user_id),
    ]
    failed = 0
    for attempt in attempts:
        try:
            error = attempt()
        except AssertionError:
            continue
        failed += 1
        assert isinstance(error, HfthotError), repr(error)
        assert WORD not in shown(error)
    assert failed
    assert WORD not in logged.text
    with contextlib.suppress(HfthotError):
        here.close()  # it would write its counts into the broken store


def test_nor_when_the_keys_are_gone(scene, logged):
    here, user_id, *_ = scene
    here.close()
    here.installation.settings.key_file.unlink()

    errors = [Attempt(here.get_user, user_id)(), Attempt(here.register, PERSON, EMAIL, SECRET)()]

    assert all(isinstance(error, HfthotError) for error in errors)
    assert WORD not in "".join(map(shown, errors)) + logged.text


def test_nor_when_a_row_was_altered(scene, logged):
    import polars as pl
    from deltalake import write_deltalake

    here, *_ = scene
    here.flush()
    table = here.installation.lake.table("users")
    write_deltalake(table.uri, table.scan().collect().with_columns(email=pl.col("username")), mode="overwrite")

    error = Attempt(here.read_version, "users", table.version())()

    assert type(error).__name__ == "DecryptionError"
    assert WORD not in shown(error) + logged.text


def test_what_calls_return_shows_nothing(scene):
    here, user_id, token, key = scene
    returned = [
        here.get_user(user_id),
        here.list_users(),
        here.login(PERSON, SECRET),
        here.verify_token(token),
        here.verify_api_key(key),
        here.generate_hfthot_api_key(user_id),
        here.list_api_keys(user_id),
        here.usage(user_id),
        here.update_user(user_id, last_name=PERSON),
        here.update_query_count(user_id, "finnhub"),
        here.delete_user_soft(user_id),
        here.restore_user(user_id),
        here,
    ]

    assert WORD not in repr(returned)
    assert token not in repr(returned)
    assert key not in repr(returned)


def test_the_test_itself_would_notice(client):
    def telling(password):
        raise HfthotError(f"the password {password} is wrong", where="here")

    unsealed = functools.partial(inspect.unwrap(LakehouseClient.login), client)

    assert WORD in shown(Attempt(telling, SECRET)())
    assert WORD in shown(Attempt(unsealed, PERSON, SECRET)())
    assert WORD in shown(Attempt(unsealed, PERSON, SECRET)(), pretty=True)
    assert WORD not in shown(Attempt(client.login, PERSON, SECRET)(), pretty=True)


def test_frames_of_the_caller_are_left_alone(client):
    def own(value):
        raise KeyError("not ours")

    try:
        own("still here")
    except KeyError as error:
        theirs = error.__traceback__.tb_next.tb_frame
        with pytest.raises(HfthotError):
            client.get_user("0" * 32)

    assert theirs.f_locals == {"value": "still here"}


def test_every_call_clears_its_frames(client):
    """Each public call, made with an argument that it refuses, leaves no local variables behind."""
    scene = Scene(client)
    for name in sorted(public() & set(ARGUMENTS)):
        if "." in name or name in {"close", "flush", "for_request", "market"}:
            continue
        error = Attempt(getattr(client, name), **{key: [SECRET] for key in ARGUMENTS[name](scene)})()
        assert isinstance(error, HfthotError), f"{name}: {error!r}"
        assert WORD not in shown(error), name
