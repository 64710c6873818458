"""What an event of a web application is: the forms of the four types, and the reasons why something is not one of them.

Pure validation: nothing here knows an account or a file.  No reason, error or `repr` shows a value: they are personal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self, cast, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.core.time import microseconds
from hfthot_platform.domain.access.plans import TierName, tier
from hfthot_platform.services.accounts.identities import email_form, name_form, new_username, username_form
from hfthot_platform.services.accounts.providers import PROVIDERS
from hfthot_platform.services.accounts.quotas import TIERED

__all__ = ["FIELDS", "KINDS", "LONGEST_LINE", "REASONS", "ApiCall", "EventRefusedError", "Kind", "Login"]
__all__ += ["Registration", "SubscriptionChange", "UserEvent", "aware_time", "user_event"]

Kind = Literal["registration", "login", "subscription_change", "api_call"]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
#: Every field that an event may have; others are ignored.
FIELDS: Final = (
    "event_id", "type", "at", "username", "email", "first_name", "last_name", "tier", "ip", "user_agent", "resource",
    "count",
)  # fmt: skip
LONGEST_LINE: Final = 64 * 1024
_LONGEST_ID: Final = 200
_LONGEST_TIME: Final = 40
_MOST_CALLS: Final = 1_000_000
_EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)

#: Why something is not applied.  Of several reasons in the form of an event the first one here is told.
REASONS: Final = {
    "not_json": "the line is not a JSON object",
    "too_long": f"the line has more than {LONGEST_LINE} bytes",
    "malformed_event_id": "event_id is not printable text of 1 to 200 characters",
    "unknown_type": f"type is not one of {', '.join(KINDS)}",
    "malformed_time": "at is not a time with a zone",
    "time_out_of_range": "at is in the future, or before the year 2000",
    "malformed_username": "username is missing or malformed",
    "malformed_email": "email is missing or malformed",
    "no_account_named": "neither username nor email is given",
    "malformed_first_name": "first_name is malformed",
    "malformed_last_name": "last_name is malformed",
    "malformed_ip": "ip or user_agent is not text",
    "unknown_resource": "resource is not a counted resource",
    "malformed_count": f"count is not a whole number from 1 to {_MOST_CALLS}",
    "unknown_tier": "tier is not a known tier",
    "duplicate_account": "the username or the e-mail address belongs to another account",
    "deleted_account": "the account is deleted",
    "unknown_account": "no account has this username or e-mail address",
}
#: The reason that a field's error is.
_REASON_OF_FIELD: Final = {
    "event_id": "malformed_event_id",
    "at": "malformed_time",
    "username": "malformed_username",
    "email": "malformed_email",
    "first_name": "malformed_first_name",
    "last_name": "malformed_last_name",
    "tier": "unknown_tier",
    "ip": "malformed_ip",
    "user_agent": "malformed_ip",
    "resource": "unknown_resource",
    "count": "malformed_count",
}


class EventRefusedError(Exception):
    """An event that is not well-formed in itself; `reason` is one of `REASONS`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _normalised_by(form: Callable[[Any], Any]) -> BeforeValidator:
    """Return a validator that brings a value into its one form, and says nothing of one that has none."""

    def formed(value: object) -> object:
        try:
            return form(value)
        except BadRequestError:
            raise PydanticCustomError("malformed", "it is malformed") from None

    return BeforeValidator(formed)


def aware_time(value: object) -> datetime | None:
    """Return a time with a zone, in UTC, or None if it is not one."""
    if isinstance(value, str) and len(value) <= _LONGEST_TIME:
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo is not None else None


def _event_id(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= _LONGEST_ID or not value.isprintable():
        raise PydanticCustomError("malformed", "it is not printable text of 1 to 200 characters")
    return value


def _time_with_zone(value: object) -> datetime:
    at = aware_time(value)
    if at is None:
        raise PydanticCustomError("malformed", "it is not a time with a zone")
    return at


def _resource(value: object) -> str:
    if value is None:
        return "requests"
    provider = value.removeprefix("provider:") if isinstance(value, str) and value.startswith("provider:") else None
    if not isinstance(value, str) or (value not in TIERED and provider not in PROVIDERS):
        raise PydanticCustomError("malformed", "it is not a counted resource")
    return value


def _count(value: object) -> int:
    if value is None:
        return 1
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_CALLS:
        raise PydanticCustomError("malformed", "it is not a whole number of calls")
    return value


def _tier(value: object) -> TierName:
    return tier(str(value)).name


class _Event(BaseModel):
    """What events of every type have; each of these fields is checked whatever the type is."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    event_id: Annotated[str, BeforeValidator(_event_id)]
    at: Annotated[datetime, BeforeValidator(_time_with_zone)]
    ip: Annotated[str | None, Field(strict=True)] = None
    user_agent: Annotated[str | None, Field(strict=True)] = None
    resource: Annotated[str, BeforeValidator(_resource)] = "requests"
    count: Annotated[int, BeforeValidator(_count)] = 1

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    __str__ = __repr__


class _AccountEvent(_Event):
    """An event of somebody who has an account, which one of the two names."""

    username: Annotated[str, _normalised_by(username_form)] | None = None
    email: Annotated[str, _normalised_by(email_form)] | None = None

    @model_validator(mode="after")
    def _names_an_account(self) -> Self:
        if self.username is None and self.email is None:
            raise PydanticCustomError("no_account_named", "neither username nor email is given")
        return self


class Registration(_Event):
    """Somebody has a new account; an administrator of the application may have chosen its tier."""

    type: Literal["registration"]
    username: Annotated[str, _normalised_by(new_username)]
    email: Annotated[str, _normalised_by(email_form)]
    first_name: Annotated[str | None, _normalised_by(lambda value: name_form(value, "first_name"))] = None
    last_name: Annotated[str | None, _normalised_by(lambda value: name_form(value, "last_name"))] = None
    tier: Annotated[TierName, _normalised_by(lambda value: "free" if value is None else _tier(value))] = "free"


class Login(_AccountEvent):
    """Somebody signed in elsewhere."""

    type: Literal["login"]


class SubscriptionChange(_AccountEvent):
    """Somebody has another tier from then on."""

    type: Literal["subscription_change"]
    tier: Annotated[TierName, _normalised_by(_tier)]


class ApiCall(_AccountEvent):
    """Somebody used the platform, or a data provider, `count` times."""

    type: Literal["api_call"]


UserEvent = Registration | Login | SubscriptionChange | ApiCall
_EVENTS: Final[TypeAdapter[UserEvent]] = TypeAdapter(Annotated[UserEvent, Field(discriminator="type")])


def user_event(fields: Mapping[str, Any] | str, latest: int) -> UserEvent:
    """Return the event of a row.

    Args:
        fields: the row, or the reason why there is none.
        latest: the latest time that an event may have, in microseconds; further ahead its time is wrong.

    Raises:
        EventRefusedError: it is malformed.
    """
    if isinstance(fields, str):
        raise EventRefusedError(fields)
    reasons: set[str] = set()
    try:
        event = _EVENTS.validate_python(fields)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_context=False, include_input=False):
            field = cast("str", problem["loc"][-1]) if problem["loc"] else ""
            known = problem["type"] if problem["type"] in REASONS else _REASON_OF_FIELD.get(field, "unknown_type")
            reasons.add(known)
        event = None
    at = aware_time(fields.get("at"))
    if at is not None and (at < _EARLIEST or microseconds(at) > latest):
        reasons.add("time_out_of_range")
    if event is None or reasons:
        # Outside the handler, so that no traceback shows what was validated.
        raise EventRefusedError(next(reason for reason in REASONS if reason in reasons))
    return event
