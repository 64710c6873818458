"""People for the tests, with values that nothing else in the platform has."""

from __future__ import annotations

from dataclasses import dataclass

from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.accounts.records import Request, User
from hfthot_platform.services.privacy.retention import RetentionReport, apply_retention
from hfthot_platform.storage.lakehouse import Lakehouse, accept_clock


@dataclass(frozen=True)
class Person:
    username: str
    email: str
    first_name: str
    last_name: str
    ip: str
    user_agent: str
    provider_key: str
    password: str = "correct horse battery staple"

    @property
    def request(self) -> Request:
        return Request(ip=self.ip, user_agent=self.user_agent)

    @property
    def values(self) -> tuple[str, ...]:
        return (
            self.username,
            self.email,
            self.first_name,
            self.last_name,
            self.ip,
            self.user_agent,
            self.provider_key,
        )


ZOE = Person(
    "zoe_quintessa",
    "Zoé.Quintessa@mail.example.org",
    "Zoéphine",
    "Quintessabel",
    "203.0.113.77",
    "Mozilla/5.0 (ZoeOS 7; Quint) Zed/19.4",
    "fh_quintessa_0123456789abcdef",
)
YAN = Person(
    "yan_bartholo",
    "yan@bartholo.example.net",
    "Yannickus",
    "Bartholomeide",
    "198.51.100.23",
    "Mozilla/5.0 (YanOS 3) Yew/2.2",
    "kr_bartholo_fedcba9876543210",
)


def someone(number: int) -> Person:
    return Person(
        f"person_{number:05d}",
        f"p{number:05d}@crowd.example.com",
        f"Vorname{number}",
        f"Nachname{number}",
        f"192.0.2.{number % 250}",
        f"Agent/{number}.0",
        f"pk_{number:032d}",
    )


def register(accounts: Accounts, person: Person) -> User:
    """Register a person who then does a bit of everything."""
    user = accounts.register(
        person.username,
        person.email,
        person.password,
        person.first_name,
        person.last_name,
        request=person.request,
    )
    accounts.login(person.username, person.password, request=person.request)
    accounts.save_api_keys(user.user_id, {"finnhub": person.provider_key}, True, request=person.request)
    accounts.generate_hfthot_api_key(user.user_id, request=person.request)
    accounts.update_query_count(user.user_id, "finnhub")
    return user


def expire(accounts: Accounts, lake: Lakehouse) -> RetentionReport:
    """Let go what is past its time; tests move the clock by months, and somebody looked."""
    accept_clock(lake)
    accounts.store.accept_clock()
    return apply_retention(accounts, lake)
