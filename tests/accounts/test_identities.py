"""What names, addresses and passwords may be."""

from __future__ import annotations

import pytest

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.services.accounts import identities

CANARY = "canary"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Alice", "alice"),
        ("ALICE", "alice"),
        ("ﬁnn", "Finn"),
        ("straße", "STRASSE"),
        (" bob ", "bob"),
        ("e\u0301va", "éva"),
    ],
)
def test_spellings_of_one_username_count_as_one(one, other):
    assert identities.username_look_up(one) == identities.username_look_up(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Alice@Example.ORG", "alice@example.org"),
        ("a@bücher.example", "a@xn--bcher-kva.example"),
        ("ａ@example.org", "a@example.org"),
    ],
)
def test_spellings_of_one_address_count_as_one(one, other):
    assert identities.email_look_up(one) == identities.email_look_up(other)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "   ",
        "canary\x00",
        "can\nary",
        "canary\u202e",
        "canary\u200b",
        "canary\ud800",
        "canary" * 11,
        "canary@home",
        None,
        7,
    ],
    ids=ascii,
)
def test_a_username_that_is_none_is_refused_without_quoting_it(name):
    with pytest.raises(BadRequestError) as caught:
        identities.username_form(name)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["a", "x' OR '1'='1", "Robert'); DROP TABLE users;--", "名前", "o'neil smith", "%_*", "a" * 64]
)
def test_an_unusual_username_is_kept_as_it_is(name):
    assert identities.username_form(name) == name


@pytest.mark.parametrize(
    "email",
    [
        "canary",
        "canary@",
        "@canary.org",
        "canary@localhost",
        "canaryx.org",
        "canary @x.org",
        "canary@x..org",
        "canary@-x.org",
        "canary@x_y.org",
        ".canary@x.org",
        "can..ary@x.org",
        "canary@1.2.3.4",
        "canary@x.org\n",
        "can\x00ary@x.org",
        "<canary@x.org>",
        "canary" * 11 + "@x.org",
        "canary@" + "x" * 64 + ".org",
        "canary@" + "x." * 130 + "org",
    ],
)
def test_what_is_no_address_is_refused_without_quoting_it(email):
    if email.endswith("\n"):  # surrounding blanks do not count
        assert identities.email_form(email) == email.strip()
        return
    with pytest.raises(BadRequestError) as caught:
        identities.email_form(email)
    assert CANARY not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("email", ["a@b.co", "first.last+tag@sub.example.org", "o'neil@example.org", "名@例え.jp"])
def test_an_unusual_address_is_accepted(email):
    assert identities.email_form(email) == email


@pytest.mark.parametrize("password", ["", "canary7", "canary" * 171, "canary\ud800abc", None, 12345678], ids=ascii)
def test_a_password_that_is_none_is_refused_without_quoting_it(password):
    with pytest.raises(BadRequestError) as caught:
        identities.password_form(password)
    assert CANARY not in str(caught.value)


def test_a_password_is_the_same_on_every_keyboard():
    assert identities.password_form("pa\u0308sswort") == identities.password_form("pässwort")


@pytest.mark.parametrize(
    "given",
    [{"a": float("nan")}, {"a": object()}, {1: "a"}, {"a": "x" * 20_000}, {"a": {1, 2}}],
    ids=["nan", "object", "number as name", "long", "set"],
)
def test_preferences_that_are_no_json_object_are_refused(given):
    with pytest.raises(BadRequestError):
        identities.preferences_form(given)


@pytest.mark.parametrize(
    ("ip", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("somewhere", "somewhere"),
    ],
)
def test_sign_ins_are_limited_per_customer_of_the_network(ip, group):
    assert identities.address_group(ip) == group
