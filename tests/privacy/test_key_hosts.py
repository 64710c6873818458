"""Key-encryption keys on several hosts: given to each through its environment, and rotated in two steps."""

from __future__ import annotations

import base64

import pytest
from pydantic import SecretStr

from hfthot_platform.core.errors import KeySourceError
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.privacy.rotation import rotate_keys
from tests.privacy.people import YAN, ZOE, someone


def pair(number):
    return f"k{number}:{base64.b64encode(bytes([number]) * 32).decode()}"


@pytest.fixture
def host(settings, clock):
    """Open the accounts as a host does that was started with these keys, the newest first."""
    opened = []

    def started(*numbers):
        keys = SecretStr(",".join(pair(number) for number in numbers))
        changes = {"key_source": "environment", "keys": keys}
        opened.append(Accounts.open(settings.model_copy(update=changes), clock, create=True))
        return opened[-1]

    yield started
    for accounts in opened:
        accounts.close()


def register(accounts, person):
    return accounts.register(person.username, person.email, person.password)


def test_hosts_go_on_while_the_keys_are_rotated_in_two_steps(host):
    left, right = host(1), host(1)
    zoe = register(left, ZOE)

    # The first step: every host gets the new key before the old one, one host after the other.
    left = host(2, 1)
    yan = register(left, YAN)
    assert right.get_user(yan.user_id).email == YAN.email, "a host that was not restarted reads what one wrote that was"
    right = host(2, 1)

    # The second step: one host rotates, and then the old key is taken away.
    assert rotate_keys(left).kek_id == "k2"
    third = register(right, someone(3))
    assert left.get_user(third.user_id).email == someone(3).email
    after = host(2)
    assert [after.get_user(user.user_id).email for user in (zoe, yan, third)] == [
        ZOE.email,
        YAN.email,
        someone(3).email,
    ]


def test_a_host_that_was_left_out_of_the_first_step_is_refused_after_the_second(host):
    register(host(1), ZOE)
    rotate_keys(host(2, 1))

    with pytest.raises(KeySourceError, match=r"'k2' is not in the key source"):
        host(1)


def test_rotating_before_the_first_step_is_refused(host):
    left = host(1)
    register(left, ZOE)

    with pytest.raises(KeySourceError, match="there is no new key"):
        rotate_keys(left)


def test_a_host_without_the_key_file_makes_no_other_for_accounts_that_have_keys(settings, accounts, clock, tmp_path):
    register(accounts, ZOE)
    elsewhere = settings.model_copy(update={"key_file": tmp_path / "another host" / "kek.json"})

    with pytest.raises(KeySourceError, match="there are no key-encryption keys"):
        Accounts.open(elsewhere, clock, create=True)

    assert not elsewhere.key_file.exists()
