"""Legal holds: parts of a person's data that must be kept for a while, whatever the person asks for.

A hold names categories, because keys are per category: an erasure goes through for the others and completes when
the hold is released.  Placing and releasing are audited with their reasons.

A reason is free text and may name anybody, so it is encrypted wherever it lies: in the audit log, and in the store
under the key of a category that the hold itself keeps.  So it can be read for as long as the hold is active, and goes
with that key.
"""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, cast, get_args

import sqlalchemy as sa

from hfthot_platform.core.errors import BadRequestError, ErasedSubjectError, nearest
from hfthot_platform.core.time import moment
from hfthot_platform.domain.access.authorisation import Action
from hfthot_platform.domain.contracts.accounts import Category
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.accounts.records import Request
from hfthot_platform.storage.operational.connection import Connection, Transaction
from hfthot_platform.storage.operational.schema import legal_holds

__all__ = ["CATEGORIES", "Hold", "forget_reasons", "held_categories", "list_holds", "place_hold", "release_hold"]

CATEGORIES: Final[tuple[Category, ...]] = get_args(Category)
_LONGEST_REASON: Final = 500
#: What the reason's envelope is bound to.
_PLACE: Final = ("legal_holds", "reason")


@dataclass(frozen=True)
class Hold:
    """A hold on one person's data."""

    hold_id: str
    subject_id: str
    categories: tuple[Category, ...]
    #: None once the key that it was encrypted with is destroyed.
    reason: str | None = field(repr=False)
    placed_at: datetime
    released_at: datetime | None

    @property
    def active(self) -> bool:
        """Whether it still keeps data."""
        return self.released_at is None


def place_hold(
    accounts: Accounts,
    user_id: str,
    categories: Collection[str],
    reason: str,
    *,
    request: Request = Request(),  # noqa: B008 - frozen
) -> Hold:
    """Keep categories of a person's data from being erased until the hold is released.

    Raises:
        BadRequestError: a category is unknown, or there is no reason.
        UnknownUserError, ErasedSubjectError: there is no such account any more.
        PermissionDeniedError: the caller is not an administrator.
    """
    chosen = _categories(categories)
    reason = _reason(reason)
    hold_id = secrets.token_hex(16)
    with accounts.operation(Action.PRIVACY_HOLD_PLACE, request, user_id) as tx:
        actor = accounts.actor(tx, request, Action.PRIVACY_HOLD_PLACE, user_id)
        subject_id = str(accounts.account(tx, user_id)["subject_id"])
        tx.execute(
            sa.insert(legal_holds).values(
                hold_id=hold_id,
                subject_id=subject_id,
                categories=",".join(chosen),
                reason=accounts.cipher(tx, subject_id, chosen[0]).encrypt(*_PLACE, reason),
                placed_at=tx.now,
                released_at=None,
            )
        )
        event = accounts.event(
            tx,
            Action.PRIVACY_HOLD_PLACE,
            subject_id,
            actor,
            request,
            resource=hold_id,
            detail={"categories": list(chosen)},
            personal={"reason": reason},
        )
        tx.log([], event)
        placed_at = tx.now
    return Hold(hold_id, subject_id, chosen, reason, moment(placed_at), None)


def release_hold(
    accounts: Accounts,
    hold_id: str,
    reason: str,
    *,
    request: Request = Request(),  # noqa: B008 - frozen
) -> Hold:
    """End a hold; erasures that waited for it go on when they are run next.  Ending it again changes nothing.

    Raises:
        BadRequestError: there is no such hold, or no reason.
        PermissionDeniedError: the caller is not an administrator.
    """
    reason = _reason(reason)
    with accounts.operation(Action.PRIVACY_HOLD_RELEASE, request) as tx:
        actor = accounts.actor(tx, request, Action.PRIVACY_HOLD_RELEASE, None)
        found = tx.execute(sa.select(legal_holds).where(legal_holds.c.hold_id == hold_id)).mappings().first()
        if found is None:
            raise BadRequestError("no hold has this id", where="hold_id", hint="`hfthot privacy holds` lists them.")
        row = dict(found)
        if row["released_at"] is None:
            tx.execute(sa.update(legal_holds).where(legal_holds.c.hold_id == hold_id).values(released_at=tx.now))
            row["released_at"] = tx.now
            personal: dict[str, Any] | None = {"reason": reason}
            try:
                accounts.cipher(tx, row["subject_id"], "audit")
            except ErasedSubjectError:
                personal = None
            event = accounts.event(
                tx,
                Action.PRIVACY_HOLD_RELEASE,
                row["subject_id"],
                actor,
                Request(actor_id=request.actor_id),
                resource=hold_id,
                detail={"categories": row["categories"].split(",")},
                personal=personal,
            )
            tx.log([], event)
    return _holds(accounts, [row])[0]


def list_holds(accounts: Accounts, user_id: str | None = None, *, active: bool = True) -> list[Hold]:
    """Return holds, the oldest first: of one account or of all, those that are active or every one."""
    statement = sa.select(legal_holds).order_by(legal_holds.c.placed_at, legal_holds.c.hold_id)
    if user_id is not None:
        statement = statement.where(legal_holds.c.subject_id == accounts.subject_of(user_id))
    if active:
        statement = statement.where(legal_holds.c.released_at.is_(None))
    with accounts.store.reading() as rx:
        rows = [dict(row) for row in rx.execute(statement).mappings()]
    return _holds(accounts, rows)


def held_categories(connection: Connection, subject_id: str) -> frozenset[Category]:
    """Return the categories of a subject that an active hold keeps, seen through a connection of the store."""
    found = connection.execute(
        sa.select(legal_holds.c.categories).where(
            legal_holds.c.subject_id == subject_id, legal_holds.c.released_at.is_(None)
        )
    )
    return frozenset(cast("Category", name) for row in found for name in row[0].split(","))


def forget_reasons(tx: Transaction, subject_id: str, destroyed: Collection[Category]) -> None:
    """Remove the reasons whose keys are destroyed in the same transaction; nobody could read them any more."""
    mine = tx.execute(
        sa.select(legal_holds.c.hold_id, legal_holds.c.categories).where(
            legal_holds.c.subject_id == subject_id, legal_holds.c.reason.is_not(None)
        )
    )
    gone = [row.hold_id for row in mine if row.categories.split(",")[0] in destroyed]
    tx.execute(sa.update(legal_holds).where(legal_holds.c.hold_id.in_(gone)).values(reason=None))


def _holds(accounts: Accounts, rows: Iterable[dict[str, Any]]) -> list[Hold]:
    """Return rows of the store as holds, their reasons decrypted where their keys still exist."""
    found = list(rows)
    sealed_by = {row["hold_id"]: cast("Category", row["categories"].split(",")[0]) for row in found}
    ciphers = {
        category: accounts.ciphers(
            (row["subject_id"] for row in found if sealed_by[row["hold_id"]] == category), category
        )
        for category in set(sealed_by.values())
    }
    holds = []
    for row in found:
        cipher = ciphers[sealed_by[row["hold_id"]]].get(row["subject_id"])
        envelope, released = row["reason"], row["released_at"]
        holds.append(
            Hold(
                hold_id=row["hold_id"],
                subject_id=row["subject_id"],
                categories=tuple(cast("Category", name) for name in row["categories"].split(",")),
                reason=None if cipher is None or envelope is None else cipher.decrypt(*_PLACE, envelope),
                placed_at=moment(row["placed_at"]),
                released_at=None if released is None else moment(released),
            )
        )
    return holds


def _categories(names: Collection[str]) -> tuple[Category, ...]:
    if isinstance(names, str):
        names = names.split(",")
    for name in names:
        if name not in CATEGORIES:
            raise BadRequestError(
                f"unknown category {str(name)[:40]!r}",
                where="categories",
                hint=nearest(str(name), CATEGORIES) or f"Categories: {', '.join(CATEGORIES)}.",
            )
    if not names:
        raise BadRequestError("no category is given", where="categories", hint=f"Categories: {', '.join(CATEGORIES)}.")
    return tuple(category for category in CATEGORIES if category in names)


def _reason(text: str) -> str:
    visible = "".join(sign for sign in text if unicodedata.category(sign)[0] != "C").strip()
    if not 1 <= len(visible) <= _LONGEST_REASON:
        raise BadRequestError(
            f"the reason has {len(visible)} characters", where="reason", hint=f"Give 1 to {_LONGEST_REASON} characters."
        )
    return visible
