"""Counting uses against quotas: of data providers, of the tier.

A quota has fixed windows that are aligned to UTC (a minute, an hour, a day).  The counter of the current window is a
row of `usage`; counting reads and writes it in one transaction, so that no use is lost and none is granted twice.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Final, Literal

import sqlalchemy as sa

from hfthot_platform.core.errors import (
    BadRequestError,
    InactiveAccountError,
    PermissionDeniedError,
    QuotaExceededError,
    TierForbiddenError,
    UnknownUserError,
    nearest,
)
from hfthot_platform.core.time import DAY, moment
from hfthot_platform.domain.access.authorisation import Action
from hfthot_platform.domain.access.plans import Limit, tier
from hfthot_platform.services.accounts.audit import Audit
from hfthot_platform.services.accounts.directory import Directory
from hfthot_platform.services.accounts.journal import Tally
from hfthot_platform.services.accounts.providers import OWN, PROVIDER_NAME, PROVIDERS
from hfthot_platform.services.accounts.records import RANDOM_ID, QueryStats, Request, Usage
from hfthot_platform.services.accounts.subject_keys import SubjectKeys
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.changes import AuditEvent, RowChange, to_json
from hfthot_platform.storage.operational.connection import Prepared, Transaction
from hfthot_platform.storage.operational.published import usage_row
from hfthot_platform.storage.operational.store import Store

__all__ = [
    "MOST_USES",
    "TIERED",
    "Counter",
    "Quotas",
    "Resource",
    "provider_limit",
    "window_of",
]

_HERE: Final = Request()
_MOST: Final = 1_000_000_000
#: What a counter can hold; the contract of `usage` takes no more.
MOST_USES: Final = 10**15
#: Clocks are set back by seconds, or by an hour where somebody takes local time for UTC.
_LONGEST_SET_BACK: Final = DAY
Resource = Literal["requests", "sql_queries", "optimisations"]


def provider_limit(provider: str) -> Limit:
    """Return the default quota of a provider.

    Raises:
        BadRequestError: the provider is not known.
    """
    found = PROVIDERS.get(provider)
    if found is None:
        raise BadRequestError(
            "it is not a known data provider",
            where="provider",
            hint=nearest(str(provider), PROVIDERS)
            or f"Known: {', '.join(PROVIDERS)}. Save a key for another provider to add it.",
        )
    return found


def window_of(limit: Limit | None) -> tuple[int | None, int]:
    """Return a limit's count and the seconds of its window; without a limit None and a day."""
    if limit is None:
        return None, 86_400
    return limit.count, round(limit.per.total_seconds())


@dataclass(frozen=True, slots=True)
class Counter:
    """Uses of one resource by one subject, as of a time; times in microseconds, `quota` None is unlimited."""

    window_start: int
    window_seconds: int
    used: int
    day: int
    used_today: int
    quota: int | None

    @classmethod
    def new(cls, quota: int | None, seconds: int, now: int) -> Counter:
        """Return an untouched counter with windows of so many seconds."""
        return cls(now - now % (seconds * 1_000_000), seconds, 0, now // DAY, 0, quota)

    @property
    def resets_at(self) -> int:
        """When the window ends."""
        return self.window_start + self.window_seconds * 1_000_000

    @property
    def remaining(self) -> int | None:
        """Uses left in the window, never negative."""
        return None if self.quota is None else max(0, self.quota - self.used)

    def at(self, now: int) -> Counter:
        """Return the counter at a time: a window or day that is over counts from zero.

        A clock that was set back changes nothing: the window lasts until its end comes again.  A window that lies
        further ahead than that explains was made by a clock that was wrong then, and ends now.
        """
        if self.window_start > now + _LONGEST_SET_BACK + self.window_seconds * 1_000_000:
            return Counter.new(self.quota, self.window_seconds, now)
        if now < self.resets_at and now // DAY <= self.day:
            return self
        fresh = now >= self.resets_at
        today = max(self.day, now // DAY)
        return Counter(
            window_start=now - now % (self.window_seconds * 1_000_000) if fresh else self.window_start,
            window_seconds=self.window_seconds,
            used=0 if fresh else self.used,
            day=today,
            used_today=self.used_today if today == self.day else 0,
            quota=self.quota,
        )

    def plus(self, amount: int, today: int | None = None) -> Counter:
        """Return the counter after further uses; as many on its day, unless that is another number.

        It stops at `MOST_USES`: whoever may refuse uses looks first whether they fit.
        """
        return Counter(
            self.window_start,
            self.window_seconds,
            min(self.used + amount, MOST_USES),
            self.day,
            min(self.used_today + (amount if today is None else today), MOST_USES),
            self.quota,
        )

    def limited(self, quota: int | None, seconds: int, now: int) -> Counter:
        """Return the counter under another quota; uses count on while the window's length stays."""
        if seconds == self.window_seconds:
            return Counter(self.window_start, seconds, self.used, self.day, self.used_today, quota)
        fresh = Counter.new(quota, seconds, now)
        return Counter(fresh.window_start, seconds, 0, self.day, self.used_today, quota)

    def row(self, subject_id: str, resource: str, now: int) -> RowChange:
        """Return the counter's row in the lake."""
        return usage_row({"subject_id": subject_id, "resource": resource, **asdict(self), "updated_at": now})


_FIELDS: Final = ("window_start", "window_seconds", "used", "day", "used_today", "quota")
_STORED: Final = tuple(schema.usage.c[name] for name in _FIELDS)
#: An account with its counter of a resource, in one read.
_COUNTED: Final = Prepared(
    sa.select(
        schema.users.c.subject_id, schema.users.c.active, schema.users.c.deleted_at, schema.users.c.tier, *_STORED
    )
    .select_from(schema.users)
    .outerjoin(
        schema.usage,
        sa.and_(
            schema.usage.c.subject_id == schema.users.c.subject_id, schema.usage.c.resource == sa.bindparam("what")
        ),
    )
    .where(schema.users.c.user_id == sa.bindparam("by"))
)
_COUNTER: Final = Prepared(
    sa.select(*_STORED).where(
        schema.usage.c.subject_id == sa.bindparam("whom"), schema.usage.c.resource == sa.bindparam("what")
    )
)
_ADD: Final = Prepared.inserting(schema.usage)
_SET: Final = Prepared(
    sa.update(schema.usage)
    .where(schema.usage.c.subject_id == sa.bindparam("whom"), schema.usage.c.resource == sa.bindparam("what"))
    .values({name: sa.bindparam(f"new_{name}") for name in (*_FIELDS, "updated_at")})
)


@lru_cache(maxsize=64)
def _increment(amount: int) -> str:
    return to_json({"increment": amount})


class Quotas:
    """The operations on quotas."""

    def __init__(self, store: Store, keys: SubjectKeys, directory: Directory, audit: Audit) -> None:
        self._store = store
        self._keys = keys
        self._directory = directory
        self._audit = audit

    def update_query_count(
        self, user_id: str, provider: str, increment: int = 1, *, request: Request = _HERE
    ) -> QueryStats:
        """Count queries to a data provider, durably, and return the quota's state after them.

        Raises:
            QuotaExceededError: fewer are left in the window; nothing was counted.
            BadRequestError: the provider is not known, or the increment is not a positive number.
            UnknownUserError, ErasedSubjectError, InactiveAccountError, PermissionDeniedError: not for this account.
        """
        return self._count(user_id, self._resource(user_id, provider), increment, request, provider)

    def count_use(self, user_id: str, resource: Resource, amount: int = 1, *, request: Request = _HERE) -> QueryStats:
        """Count uses of the platform itself against the account's tier, durably.

        Raises:
            TierForbiddenError: the tier does not include this at all.
            QuotaExceededError: fewer are left in the window; nothing was counted.
            BadRequestError, UnknownUserError, ErasedSubjectError, InactiveAccountError, PermissionDeniedError: as
                `update_query_count`.
        """
        if resource not in TIERED:
            raise BadRequestError(
                f"unknown resource {str(resource)[:40]!r}", where="resource", hint=f"Choose one of {', '.join(TIERED)}."
            )
        return self._count(user_id, resource, amount, request)

    def count_request(self, user_id: str, *, request: Request = _HERE) -> None:
        """Count a request against the account's plan before it is served, durably and for all processes together.

        The counter is exact; its audit entry and its row in the lake are written with others, once a minute.

        Raises:
            QuotaExceededError: the plan's requests of this minute are used up; `retry_after` has the seconds.
            InactiveAccountError, UnknownUserError, ErasedSubjectError: there is no such account (any more).
        """
        refused: QuotaExceededError | None = None
        with self._store.transaction() as tx:
            subject_id, counter, stored = self._counter(tx, user_id, "requests")
            if counter.quota is not None and counter.used >= counter.quota:
                wait = _seconds(counter.resets_at - tx.clock)
                refused = QuotaExceededError(
                    f"the plan's {counter.quota} requests in {counter.window_seconds} s are used up",
                    resets_at=moment(counter.resets_at),
                    retry_after=wait,
                    where="requests",
                    hint=f"Try again in {wait:.0f} s, or choose a larger plan.",
                )
            elif counter.quota is not None:
                self.write(tx, subject_id, "requests", counter.plus(1), stored=stored)
        if refused is not None:
            self._audit.refused(Action.USAGE_COUNT, refused, request, user_id, "requests")
            raise refused

    def provider_id(self, user_id: str, provider: str) -> str:
        """Return what a person's provider is called in the store, the lake and the audit log.

        Names from the list are as they are.  Any other is whatever somebody typed: of it nothing is seen but a keyed
        hash, another one for every account; the name itself lies encrypted with the provider's key.
        """
        if provider in PROVIDERS:
            return provider
        return OWN + self._keys.look_up("provider", f"{user_id}\0{provider}").hex()[:32]

    def _resource(self, user_id: str, provider: str) -> str:
        if not PROVIDER_NAME.fullmatch(str(provider)):
            provider_limit(str(provider))
        return f"provider:{self.provider_id(user_id, provider)}"

    def _count(
        self, user_id: str, resource: str, amount: int, request: Request, provider: str | None = None
    ) -> QueryStats:
        given: object = amount
        if not isinstance(given, int) or isinstance(given, bool) or not 1 <= amount <= _MOST:
            raise BadRequestError(
                f"it is not a whole number from 1 to {_MOST}", where="increment", hint="Give the number of uses."
            )
        refused: InactiveAccountError | QuotaExceededError | TierForbiddenError | None = None
        try:
            with self._store.transaction() as tx:
                actor = self._directory.actor(tx, request, Action.USAGE_COUNT, user_id)
                subject_id, before, stored = self._counter(tx, user_id, resource, provider)
                counter = before
                if before.quota == 0 and resource in TIERED:
                    refused = TierForbiddenError(
                        f"the plan does not include {resource}", where=f"user {user_id}", hint="Choose a larger plan."
                    )
                elif before.quota is not None and before.used + amount > before.quota:
                    refused = QuotaExceededError(
                        f"{amount} uses were requested, but only {before.remaining} of {before.quota} are left",
                        resets_at=moment(before.resets_at),
                        retry_after=_seconds(before.resets_at - tx.clock),
                        where=resource,
                        hint=f"The window ends at {moment(before.resets_at).isoformat()}.",
                    )
                elif max(before.used, before.used_today) + amount > MOST_USES:
                    refused = QuotaExceededError(
                        f"a counter can hold at most {MOST_USES} uses",
                        resets_at=moment(before.resets_at),
                        retry_after=_seconds(before.resets_at - tx.clock),
                        where=resource,
                        hint=f"The window ends at {moment(before.resets_at).isoformat()}.",
                    )
                else:
                    counter = before.plus(amount)
                    self.write(tx, subject_id, resource, counter, stored=stored)
                    event = AuditEvent(
                        action=Action.USAGE_COUNT,
                        subject_id=subject_id,
                        actor_id=actor,
                        resource=resource,
                        detail=_increment(amount),
                    )
                    tx.log([counter.row(subject_id, resource, tx.now)], event)
        except (InactiveAccountError, UnknownUserError, PermissionDeniedError) as error:
            self._audit.refused(Action.USAGE_COUNT, error, request, user_id, _shown_resource(resource))
            raise
        if refused is not None:
            self._audit.refused(Action.USAGE_COUNT, refused, request, user_id, resource)
            raise refused
        return _stats(provider or resource, counter)

    def stored_counter(self, tx: Transaction, subject_id: str, resource: str) -> Counter | None:
        """Return a subject's counter of a resource as it was when it was last used; None if it never was."""
        found = tx.run(_COUNTER, {"whom": subject_id, "what": resource})
        return Counter(*found[0]) if found else None

    def provider_counter(self, tx: Transaction, subject_id: str, provider: str) -> tuple[Counter, bool]:
        """Return a provider's counter as of now, and whether the store has it; a new one has the default quota."""
        found = self.stored_counter(tx, subject_id, f"provider:{provider}")
        if found is not None:
            return found.at(tx.clock), True
        return Counter.new(*window_of(provider_limit(provider)), tx.clock), False

    def _counter(
        self, tx: Transaction, user_id: str, resource: str, provider: str | None = None
    ) -> tuple[str, Counter, bool]:
        """Return the account's subject, its counter as of now, and whether the store has one."""
        known = RANDOM_ID.fullmatch(str(user_id))
        found = tx.run(_COUNTED, {"by": user_id, "what": resource}) if known else []
        if not found:
            self._directory.account(tx, user_id)  # raises what it is
            raise UnknownUserError(
                "no account has this user id", where="user_id", hint="Use the id that `register` returned."
            )
        subject_id, active, deleted_at, level, *fields = found[0]
        if not active or deleted_at is not None:
            raise InactiveAccountError(
                "the account is deactivated or deleted", where=f"user {user_id}", hint="Ask an administrator."
            )
        stored = fields[0] is not None
        counter = Counter(*fields).at(tx.clock) if stored else None
        if resource in TIERED:
            # The tier may have changed since the last use.
            window = window_of(getattr(tier(level), resource))
            counter = (counter or Counter.new(*window, tx.clock)).limited(*window, tx.clock)
        elif counter is None:
            counter = Counter.new(*window_of(provider_limit(str(provider))), tx.clock)
        return str(subject_id), counter, stored

    def write(self, tx: Transaction, subject_id: str, resource: str, counter: Counter, *, stored: bool) -> None:
        """Write a counter; `stored` says whether the store has one of this resource."""
        if stored:
            tx.run(
                _SET,
                {
                    "whom": subject_id,
                    "what": resource,
                    "new_window_start": counter.window_start,
                    "new_window_seconds": counter.window_seconds,
                    "new_used": counter.used,
                    "new_day": counter.day,
                    "new_used_today": counter.used_today,
                    "new_quota": counter.quota,
                    "new_updated_at": tx.now,
                },
            )
        else:
            row = {"subject_id": subject_id, "resource": resource, "updated_at": tx.now}
            tx.run(_ADD, row | {name: getattr(counter, name) for name in _FIELDS})

    def get_query_stats(self, user_id: str, provider: str, *, request: Request = _HERE) -> QueryStats:
        """Return the state of a data provider's quota.

        Raises:
            BadRequestError: the provider is not known.
            UnknownUserError, ErasedSubjectError, InactiveAccountError, PermissionDeniedError: not for this account.
        """
        resource = self._resource(user_id, provider)
        with self._audit.operation(Action.USAGE_READ, request, user_id) as tx:
            actor = self._directory.actor(tx, request, Action.USAGE_READ, user_id)
            subject_id, counter, _ = self._counter(tx, user_id, resource, provider)
            tx.log([], self._audit.event(tx, Action.USAGE_READ, subject_id, actor, request, resource=resource))
        return _stats(provider, counter)

    def usage(self, user_id: str, *, request: Request = _HERE) -> Usage:
        """Return what an account used today and what its tier allows.

        Raises:
            UnknownUserError, ErasedSubjectError, InactiveAccountError, PermissionDeniedError: not for this account.
        """
        with self._audit.operation(Action.USAGE_READ, request, user_id) as tx:
            actor = self._directory.actor(tx, request, Action.USAGE_READ, user_id)
            row = self._directory.living(tx, user_id)
            used = {}
            for resource in TIERED:
                counter = self.stored_counter(tx, row["subject_id"], resource)
                used[resource] = 0 if counter is None else counter.at(tx.clock).used_today
            tx.log([], self._audit.event(tx, Action.USAGE_READ, row["subject_id"], actor, request))
            end = (tx.clock // DAY + 1) * DAY
        level = tier(row["tier"])
        return Usage(
            user_id=user_id,
            tier=level.name,
            requests_today=used["requests"],
            requests=level.requests,
            sql_queries_today=used["sql_queries"],
            sql_queries=level.sql_queries,
            optimisations_today=used["optimisations"],
            optimisations=level.optimisations,
            websocket_streams=level.websocket_streams,
            cycle_end=moment(end),
        )

    def count_tally(self, tx: Transaction, tally: Tally, count: int, last: int) -> list[RowChange]:
        """Add verified uses of API keys to the account's requests, and return what that changes in the lake."""
        if tally.action in _COUNTED_BEFORE and tally.subject_id is not None:
            known = self.stored_counter(tx, tally.subject_id, "requests")
            return [] if known is None else [known.row(tally.subject_id, "requests", tx.now)]
        if tally.action != Action.API_KEY_VERIFY or tally.outcome != "success" or tally.subject_id is None:
            return []
        account = self._directory.account_of(tx, tally.subject_id)
        if account is None:
            return []
        window = window_of(tier(account["tier"]).requests)
        stored = self.stored_counter(tx, tally.subject_id, "requests")
        counter = stored or Counter.new(*window, last)
        counter = counter.at(last).limited(*window, last).plus(count)
        self.write(tx, tally.subject_id, "requests", counter, stored=stored is not None)
        return [counter.row(tally.subject_id, "requests", tx.now)]


#: Uses that `count_request` counted when they happened.
_COUNTED_BEFORE: Final = frozenset({"api_key.use", Action.SESSION_VERIFY})
TIERED: Final[tuple[Resource, ...]] = ("requests", "sql_queries", "optimisations")


def _seconds(span: int) -> float:
    return max(0.001, span / 1e6)


def _stats(name: str, counter: Counter) -> QueryStats:
    return QueryStats(
        provider=name,
        queries_done=counter.used,
        queries_remaining=counter.remaining,
        queries_limit=counter.quota,
        queries_today=counter.used_today,
        resets_at=moment(counter.resets_at),
    )


def _shown_resource(resource: str) -> str | None:
    """Return a resource for the audit log; what a caller made up is left out."""
    provider = resource.partition(":")[2]
    return resource if resource in TIERED or provider in PROVIDERS or provider.startswith(OWN) else None
