"""Names that look alike are one name, and what cannot be seen is in none."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from hfthot_platform.core.errors import BadRequestError, DuplicateAccountError
from hfthot_platform.services.accounts.lookalikes import skeleton
from hfthot_platform.storage.operational import schema
from tests.accounts.conftest import PASSWORD

pytestmark = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)


@pytest.mark.parametrize(
    "name",
    [
        *(
            f"ada{invisible}"
            for invisible in "\ufe0f\u034f\u3164\u2800\u17b4\u115f\uffa0\u180b\u2064\U000e0100\U0001d159\u00ad"
        ),
        "q\u0301\u0301\u0301\u0301da",
        "\u0301ada",
        "ada  lovelace",
        "\u0430da",
        "ad\u03b1",
        "ada\u0661" + "2",
    ],
    ids=ascii,
)
def test_a_name_that_hides_something_is_refused(accounts, name):
    with pytest.raises(BadRequestError) as caught:
        accounts.register(name, "a@example.org", PASSWORD)
    assert name not in str(caught.value)


@pytest.mark.parametrize("name", ["Zoë", "Алиса", "山田太郎", "ada lovelace", "müller_2", "Νίκος", "김철수", "o'brien"])
def test_names_of_all_languages_are_names(accounts, name):
    made = accounts.register(name, "a@example.org", PASSWORD)
    assert accounts.login(name, PASSWORD).user_id == made.user_id


@pytest.mark.parametrize(
    ("one", "other"), [("scope", "ѕсоре"), ("bobl", "bob1"), ("modern", "modem"), ("ada", "ADA"), ("b0b", "bOb")]
)
def test_a_name_that_looks_like_anothers_is_taken(accounts, one, other):
    accounts.register(one, "a@example.org", PASSWORD)
    with pytest.raises(DuplicateAccountError) as caught:
        accounts.register(other, "b@example.org", PASSWORD)
    assert caught.value.field == "username"
    assert skeleton(one.casefold()) == skeleton(other.casefold()) or one == "b0b"


def test_nobody_is_renamed_to_what_looks_like_another(accounts, alice, bob):
    with pytest.raises(DuplicateAccountError):
        accounts.update_user(bob.user_id, username="a1ice")
    assert accounts.update_user(alice.user_id, username="ALICE").username == "ALICE"


def test_names_of_an_older_version_count_and_still_sign_in(accounts, alice):
    with accounts.store.transaction() as tx:
        tx.execute(sa.update(schema.users).values(username_skeleton=None))
    with pytest.raises(DuplicateAccountError):
        accounts.register("a1ice", "b@example.org", PASSWORD)
    assert accounts.login("alice", PASSWORD)
