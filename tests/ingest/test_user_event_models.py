"""An event is one of four types, or refused for one reason; no value of it shows anywhere."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime

import pytest

from hfthot_platform.services.ingest.user_event_models import (
    ApiCall,
    EventRefusedError,
    Login,
    Registration,
    SubscriptionChange,
    user_event,
)

LATEST = 1_800_000_000_000_000
NAMED = {"event_id": "a-1", "at": "2024-03-01T12:00:00+01:00", "username": "zephyrine"}
LOGIN = NAMED | {"type": "login"}
REGISTRATION = NAMED | {"type": "registration", "email": "zephyrine@example.org"}


def reason_of(fields) -> str:
    with pytest.raises(EventRefusedError) as refused:
        user_event(fields, LATEST)
    return refused.value.reason


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        (REGISTRATION, Registration),
        (LOGIN, Login),
        (NAMED | {"type": "subscription_change", "tier": "hobbyist"}, SubscriptionChange),
        (NAMED | {"type": "api_call"}, ApiCall),
    ],
)
def test_the_type_says_what_an_event_is(fields, kind):
    event = user_event(fields, LATEST)

    assert type(event) is kind
    assert event.at == datetime(2024, 3, 1, 11, tzinfo=UTC)


def test_what_is_not_given_or_null_is_the_default():
    event = user_event(REGISTRATION | {"tier": None, "first_name": "", "count": None, "resource": None}, LATEST)

    assert isinstance(event, Registration)
    assert (event.tier, event.first_name, event.count, event.resource) == ("free", None, 1, "requests")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ("not_json", "not_json"),
        ({}, "unknown_type"),
        (LOGIN | {"type": ["login"]}, "unknown_type"),
        (LOGIN | {"event_id": ""}, "malformed_event_id"),
        (LOGIN | {"event_id": 7}, "malformed_event_id"),
        (LOGIN | {"at": "2024-03-01T12:00:00"}, "malformed_time"),
        (LOGIN | {"at": "1999-12-31T23:59:59Z"}, "time_out_of_range"),
        (LOGIN | {"at": "2030-01-01T00:00:00Z"}, "time_out_of_range"),
        (LOGIN | {"username": None}, "no_account_named"),
        (LOGIN | {"username": "a@b"}, "malformed_username"),
        (LOGIN | {"email": "nobody"}, "malformed_email"),
        (LOGIN | {"ip": 7}, "malformed_ip"),
        (LOGIN | {"user_agent": b"curl"}, "malformed_ip"),
        (NAMED | {"type": "registration"}, "malformed_email"),
        (REGISTRATION | {"first_name": "x" * 500}, "malformed_first_name"),
        (REGISTRATION | {"last_name": 7}, "malformed_last_name"),
        (REGISTRATION | {"tier": "golden"}, "unknown_tier"),
        (NAMED | {"type": "subscription_change"}, "unknown_tier"),
        (NAMED | {"type": "api_call", "resource": "provider:nobody"}, "unknown_resource"),
        (NAMED | {"type": "api_call", "count": True}, "malformed_count"),
        (NAMED | {"type": "api_call", "count": 1_000_001}, "malformed_count"),
    ],
)
def test_what_is_malformed_is_refused_for_its_reason(fields, reason):
    assert reason_of(fields) == reason


def test_of_several_reasons_the_first_is_told():
    assert reason_of(LOGIN | {"at": "2030-01-01T00:00:00Z", "username": "a@b", "ip": 7}) == "time_out_of_range"


def test_no_error_and_no_repr_shows_a_value():
    fields = REGISTRATION | {"last_name": "Quuxington" * 50}
    with pytest.raises(EventRefusedError) as refused:
        user_event(fields, LATEST)

    shown = "".join(traceback.format_exception(refused.value)) + repr(user_event(REGISTRATION, LATEST))
    assert "Quuxington" not in shown
    assert "zephyrine" not in shown
