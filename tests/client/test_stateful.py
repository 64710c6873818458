"""Random operations with erasures, publishing and restarts, against a model that fits on a page."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from hfthot_platform import LakehouseClient
from hfthot_platform.core import errors
from hfthot_platform.core.settings import load_settings
from hfthot_platform.services.publication.chain import verify_chain

NAMES = st.sampled_from([f"user{number}" for number in range(5)])
PICK = st.integers(0, 1000)
QUOTA = 10


@dataclass(eq=False)
class Account:
    """What must be true of one account."""

    user_id: str
    name: str
    password: str
    state: str = "active"
    used: int = 0
    #: Tokens and keys by what verifying them says.
    sessions: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)


class Life(RuleBasedStateMachine):
    """The client and the model, side by side."""

    #: Erasures take a second each.
    most_erasures = 2

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="stateful-"))
        self.now = datetime(2024, 3, 10, 12, tzinfo=UTC)
        self.accounts: list[Account] = []
        #: User ids by version of `users`, as published.
        self.published: dict[int, list[str]] = {}
        self.erasures = 0
        self.entries: int | None = None
        self.client = self.open()

    def open(self) -> LakehouseClient:
        def clock() -> datetime:
            self.now += timedelta(microseconds=1)
            return self.now

        made = load_settings(
            lake_root=str(self.root / "lake"),
            **{name: self.root / name for name in ("accounts", "exports", "certificates", "scratch", "landing")},
            key_file=self.root / "keys" / "kek.json",
            argon2_memory_kib=8,
            argon2_passes=1,
            argon2_lanes=1,
            login_failures=1000,
        )
        return LakehouseClient.from_settings(made, clock=clock)

    def teardown(self) -> None:
        try:
            self.restart()
            self.everything_holds()
        finally:
            self.client.close()
            shutil.rmtree(self.root)

    # -- helpers --------------------------------------------------------------------------------------------

    @property
    def head(self) -> int:
        return self.client.installation.accounts.store.head()[0]

    def does(self, work: Any, *, fails: type[Exception] | None = None, entries: int | None = 1) -> Any:
        """Do it, with the outcome and the number of audit entries that the model expects."""
        before = self.head
        if fails is not None:
            with pytest.raises(fails):
                work()
            # What is refused again and again is counted together.
            assert self.head - before <= 1
            return None
        result = work()
        if entries is not None:
            assert self.head - before == entries, "an operation is one entry"
        return result

    def some(self, number: int, *states: str) -> Account | None:
        among = [account for account in self.accounts if account.state in (states or ("active", "deleted", "erased"))]
        return among[number % len(among)] if among else None

    def holder(self, name: str) -> Account | None:
        return next((account for account in self.accounts if account.name == name and account.state != "erased"), None)

    def refusal(self, account: Account) -> type[Exception] | None:
        return {"active": None, "deleted": errors.InactiveAccountError, "erased": errors.ErasedSubjectError}[
            account.state
        ]

    # -- accounts -------------------------------------------------------------------------------------------

    @rule(name=NAMES)
    def register(self, name: str) -> None:
        work = lambda: self.client.register(name, f"{name}@example.org", f"password of {name}")  # noqa: E731
        if self.holder(name):
            self.does(work, fails=errors.DuplicateAccountError)
            return
        user = self.does(work)
        self.accounts.append(Account(user.user_id, name, f"password of {name}"))
        plan = {"kraken": {"api_key": name, "queries_limit": QUOTA}}
        # Two entries: what is returned is a read of its own.
        self.does(lambda: self.client.save_api_keys(user.user_id, plan), entries=2)

    @rule(name=NAMES, right=st.booleans())
    def login(self, name: str, right: bool) -> None:
        account = self.holder(name)
        password = account.password if account and right else "wrong password"
        work = lambda: self.client.login(name, password)  # noqa: E731
        if account is None or not right:
            self.does(work, fails=errors.InvalidCredentialsError)
        elif account.state == "deleted":
            self.does(work, fails=errors.InactiveAccountError)
        else:
            account.sessions[self.does(work).token.get_secret_value()] = "good"

    @rule(pick=PICK)
    def change_password(self, pick: int) -> None:
        if (account := self.some(pick)) is None:
            return
        new = f"new {account.password}"[:60] + str(len(account.sessions))
        work = lambda: self.client.change_password(account.user_id, account.password, new)  # noqa: E731
        self.does(work, fails=self.refusal(account))
        if account.state == "active":
            account.password = new
            account.sessions = dict.fromkeys(account.sessions, "revoked")

    @rule(pick=PICK, name=NAMES)
    def rename(self, pick: int, name: str) -> None:
        if (account := self.some(pick)) is None:
            return
        work = lambda: self.client.update_user(account.user_id, username=name)  # noqa: E731
        other = self.holder(name)
        if account.state == "active" and other is not None and other is not account:
            self.does(work, fails=errors.DuplicateAccountError)
            return
        if account.state == "active":
            # Nobody signs in with another one's address: it stays with the first name.
            self.does(lambda: self.client.update_user(account.user_id, username=name, email=f"{name}@example.org"))
            account.name = name
        elif account.state == "deleted":
            self.does(work, fails=errors.InactiveAccountError)

    # -- tokens, keys, quotas ---------------------------------------------------------------------------------

    def verdict(self, account: Account, known: str) -> type[Exception] | None:
        if account.state == "erased":
            return errors.InvalidTokenError
        if known == "revoked":
            return errors.RevokedTokenError
        return errors.InactiveAccountError if account.state == "deleted" else None

    @rule(pick=PICK, which=PICK)
    def logout(self, pick: int, which: int) -> None:
        if (account := self.some(pick)) is None or not account.sessions:
            return
        token = sorted(account.sessions)[which % len(account.sessions)]
        if account.state == "erased":
            self.does(lambda: self.client.logout(token), fails=errors.InvalidTokenError)
        elif account.sessions[token] == "revoked":
            self.does(lambda: self.client.logout(token), fails=errors.RevokedTokenError)
        else:
            self.does(lambda: self.client.logout(token))
            account.sessions[token] = "revoked"

    @rule(pick=PICK)
    def generate_key(self, pick: int) -> None:
        if (account := self.some(pick)) is None or len(account.keys) > 6:
            return
        made = self.does(
            lambda: self.client.generate_hfthot_api_key(account.user_id), fails=self.refusal(account), entries=None
        )
        if made:
            account.keys[made.key.get_secret_value()] = "good"

    @rule(pick=PICK)
    def rotate_key(self, pick: int) -> None:
        good = [account for account in self.accounts if account.state == "active" and "good" in account.keys.values()]
        if not good:
            return
        account = good[pick % len(good)]
        old = next(key for key, known in sorted(account.keys.items()) if known == "good")
        key_id = self.client.verify_api_key(old).key_id
        made = self.does(lambda: self.client.rotate_api_key(account.user_id, key_id))
        account.keys |= {old: "revoked", made.key.get_secret_value(): "good"}

    @rule(pick=PICK, amount=st.integers(1, 6))
    def count(self, pick: int, amount: int) -> None:
        if (account := self.some(pick)) is None:
            return
        work = lambda: self.client.update_query_count(account.user_id, "kraken", amount)  # noqa: E731
        if account.state == "active" and account.used + amount > QUOTA:
            self.does(work, fails=errors.QuotaExceededError)
        elif account.state == "active":
            account.used += amount
            assert self.does(work).queries_remaining == QUOTA - account.used
        else:
            self.does(work, fails=self.refusal(account))

    # -- leaving ----------------------------------------------------------------------------------------------

    @rule(pick=PICK)
    def delete(self, pick: int) -> None:
        if (account := self.some(pick, "active", "deleted")) is None:
            return
        self.does(lambda: self.client.delete_user_soft(account.user_id), entries=1 if account.state == "active" else 0)
        account.state = "deleted"
        account.sessions = dict.fromkeys(account.sessions, "revoked")

    @rule(pick=PICK)
    def restore(self, pick: int) -> None:
        if account := self.some(pick, "deleted", "active"):
            self.does(lambda: self.client.restore_user(account.user_id), entries=1 if account.state == "deleted" else 0)
            account.state = "active"

    @precondition(lambda self: self.erasures < self.most_erasures)
    @rule(pick=PICK, keep=st.sampled_from([True, True, True, False]))
    def erase(self, pick: int, keep: bool) -> None:
        if (account := self.some(pick)) is None:
            return
        work = lambda: self.client.delete_user_permanent(account.user_id, keep)  # noqa: E731
        if account.state == "erased":
            self.does(work, fails=errors.ErasedSubjectError)
            return
        self.erasures += 1
        assert self.does(work, entries=None).keep_history is keep
        account.state = "erased"
        if not keep:
            self.published.clear()

    # -- publishing and restarts --------------------------------------------------------------------------------

    @rule()
    def publish(self) -> None:
        self.client.flush()
        if versions := self.client.list_versions("users"):
            living = [account.user_id for account in self.accounts if account.state != "erased"]
            self.published[versions[-1]["version"]] = living

    @rule()
    def restart(self) -> None:
        self.client.close()
        self.client = self.open()

    # -- what always holds --------------------------------------------------------------------------------------

    @invariant()
    def sessions_and_keys_are_what_the_model_says(self) -> None:
        for account in self.accounts[-2:]:
            for verify, known in (
                (self.client.verify_token, account.sessions),
                (self.client.verify_api_key, account.keys),
            ):
                for secret, state in list(known.items())[-2:]:
                    expected = self.verdict(account, state)
                    if expected is None:
                        assert verify(secret).user_id == account.user_id
                    else:
                        with pytest.raises(expected):
                            verify(secret)

    def everything_holds(self) -> None:
        client = self.client
        living = {account.user_id: account for account in self.accounts if account.state != "erased"}
        listed = {user.user_id: user for user in client.list_users(deleted=None)}
        assert {user_id: user.username for user_id, user in listed.items()} == {
            user_id: account.name for user_id, account in living.items()
        }
        assert all(
            (user.deleted_at is not None) == (living[user.user_id].state == "deleted") for user in listed.values()
        )
        for account in living.values():
            if account.state == "active":
                assert client.get_query_stats(account.user_id, "kraken").queries_done == account.used
        for account in self.accounts:
            if account.state == "erased":
                with pytest.raises(errors.ErasedSubjectError):
                    client.get_user(account.user_id)
        subjects = {client.installation.accounts.subject_of(user_id): user_id for user_id in living}
        for version, user_ids in self.published.items():
            rows = client.read_version("users", version).collect()
            there = Counter(subjects.get(subject) for subject in rows["subject_id"])
            assert there == Counter(user_id if user_id in living else None for user_id in user_ids)
            readable = rows["username"].is_not_null().to_list()
            assert readable == [subject in subjects for subject in rows["subject_id"]]
        client.flush()
        report = verify_chain(client.installation.lake, client.installation.accounts.store)
        assert report.problems == ()
        assert report.entries + report.pending == self.head - report.anchor_seq
        assert client.installation.lake.table("audit_log").scan().collect().height == report.entries


def run(machine: type[RuleBasedStateMachine], examples: int, steps: int, *, shrink: bool = False) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=not shrink,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        ),
    )


def test_a_random_life_matches_the_model():
    run(Life, examples=4, steps=25)


@pytest.mark.soak
def test_many_random_lives_match_the_model():
    class LongLife(Life):
        most_erasures = 5

    run(LongLife, examples=int(os.environ.get("HFTHOT_SOAK_LIVES", "25")), steps=60, shrink=True)
