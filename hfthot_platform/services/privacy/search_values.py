"""What an erasure's proof looks for, and what of it was found: sealed until the proof is there.

Only what identifies the person is looked for: the user id, keys and hashes that nobody else has, usernames, e-mail
addresses (in both spellings of their domains), names, provider keys, ciphertext, and addresses of sign-ins that
succeeded.  What unknown callers choose (programs, failed sign-ins' addresses, names of providers, other people's
texts) is not: anybody who can try a sign-in could otherwise choose what an erasure stumbles over.  Nor is what says
nothing about a person: words of the platform's own texts, addresses of private networks, a hash that several accounts
share.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import polars as pl
import sqlalchemy as sa

from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.domain.contracts.accounts import CATEGORY, USER_TABLES, Category
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.privacy.files_of_subject import read_file, retained
from hfthot_platform.services.privacy.proof.scan import Needle
from hfthot_platform.services.privacy.words import is_own_text
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.operational import schema

__all__ = ["WEAK", "AcceptedTrace", "RemainingTrace", "SearchValues", "collected"]

#: Values of one kind that are looked for; the newest of more.
_MOST_VALUES: Final = 200
#: Kinds that count as whole words only.
_WORDS: Final = frozenset({"username", "email", "first_name", "last_name", "full_name", "ip"})
#: Kinds that somebody or something else may have too: by themselves they do not tell a person.
WEAK: Final = frozenset({"username", "first_name", "last_name", "full_name", "ip"})
#: Columns whose values are looked for, and under which kind.
_COLUMNS: Final = {
    ("users", "username"): "username",
    ("users", "email"): "email",
    ("users", "first_name"): "first_name",
    ("users", "last_name"): "last_name",
    ("sessions", "ip"): "ip",
    ("api_keys", "secret"): "secret",
}
#: Every kind that is looked for.
_KINDS: Final = frozenset(_COLUMNS.values()) | {
    "user_id", "lookup", "password_hash", "wrapped_key", "token_hash", "key_hash", "envelope", "full_name",
}  # fmt: skip
#: A provider's key that is shorter may be a word or a number.
_SHORTEST_SECRET: Final = 12
#: Networks that many have at home; documentation's addresses are in no use at all, and harmless.
_EVERYBODYS: Final = tuple(
    map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"))
)


@dataclass(frozen=True)
class RemainingTrace:
    """Something of the person, or that looks like it, which was still there when the proof looked.

    `path` and `context` are for the officer's eyes alone: they may hold personal data.
    """

    hit: str
    place: str
    file: str
    kind: str
    encoding: str
    inside: str
    offset: int
    #: How often, in this file and form, and how often before the destruction (None if that was not looked at).
    count: int
    before: int | None
    #: When the file was last changed (seconds since 1970), where that is known.
    modified: float | None
    #: Which of the values that are sought; None for a file that could not be read.
    value: int | None
    path: str = field(repr=False)
    context: str = field(repr=False)

    def shown(self) -> dict[str, Any]:
        """Return what anybody may see."""
        return {name: value for name, value in asdict(self).items() if name not in {"path", "context", "value"}}

    def __str__(self) -> str:
        if self.kind == "unreadable":
            return f"{self.place}: {self.file} cannot be read"
        return f"{self.kind} in {self.place}: {self.file} at {self.offset} ({self.encoding}, {self.inside})"


@dataclass(frozen=True)
class AcceptedTrace:
    """A remain that the officer judged to be none of the person's, and why."""

    hit: str
    reason: str
    at: int
    #: The value is accepted wherever it is.
    everywhere: bool
    value: int | None
    shown: dict[str, Any]

    def covers(self, remain: RemainingTrace) -> bool:
        """Whether a remain is accepted by it."""
        return remain.hit == self.hit or (self.everywhere and remain.value is not None and remain.value == self.value)


@dataclass
class SearchValues:
    """The values of a person, without repetition, and what was found of them."""

    needles: dict[tuple[str, str | bytes], None] = field(default_factory=dict)
    #: (kind, reason) of values that are not looked for.
    left_out: set[tuple[str, str]] = field(default_factory=set)
    #: When the account was made (microseconds since 1970).
    since: int | None = None
    #: Before the destruction: how often each value was in which file, by (place, path, value).  None if not looked at.
    before: dict[tuple[str, str, int], int] | None = None
    remains: list[RemainingTrace] = field(default_factory=list)
    accepted: list[AcceptedTrace] = field(default_factory=list)
    #: What the names of remains are made with, so that nobody can test a guess of a file's name on them.
    salt: str = field(default_factory=lambda: secrets.token_hex(16))

    def add(self, kind: str, *values: str | bytes | None) -> None:
        """Add values that are worth looking for; say why of the others."""
        for value in values:
            if not value:
                continue
            if isinstance(value, str) and (reason := _says_nothing(kind, value)):
                self.left_out.add((kind, reason))
            elif (kind, value) not in self.needles and self._of(kind) >= _MOST_VALUES:
                self.left_out.add((kind, f"beyond the newest {_MOST_VALUES} values"))
            else:
                self.needles.setdefault((kind, value))

    def _of(self, kind: str) -> int:
        return sum(known == kind for known, _ in self.needles)

    @property
    def open_hits(self) -> list[RemainingTrace]:
        """Return what was found and nobody accepted."""
        return [remain for remain in self.remains if not any(judgement.covers(remain) for judgement in self.accepted)]

    def searched(self) -> list[Needle]:
        """Return the values as the scan takes them, in the order of their numbers."""
        return [Needle(kind, value, kind in _WORDS) for kind, value in self.needles]

    def name_of(self, *parts: object) -> str:
        """Return the name of a remain: the same for the same place, file, form and value."""
        text = "\0".join(map(str, parts)).encode(errors="surrogatepass")
        return hmac.digest(bytes.fromhex(self.salt), text, "sha256").hex()[:12]

    def to_json(self) -> str:
        """Return everything as text, to be sealed."""
        rows = [[kind, value if isinstance(value, str) else {"hex": value.hex()}] for kind, value in self.needles]
        before = None if self.before is None else [[*form, count] for form, count in self.before.items()]
        return json.dumps(
            {
                "needles": rows,
                "left_out": sorted(self.left_out),
                "since": self.since,
                "before": before,
                "remains": [asdict(remain) for remain in self.remains],
                "accepted": [asdict(judgement) for judgement in self.accepted],
                "salt": self.salt,
            }
        )

    @classmethod
    def of(cls, text: str) -> SearchValues:
        """Return what `to_json` wrote."""
        known = json.loads(text)
        found = cls(
            left_out={(kind, reason) for kind, reason in known["left_out"]},
            since=known.get("since"),
            remains=[RemainingTrace(**remain) for remain in known.get("remains", ())],
            accepted=[AcceptedTrace(**judgement) for judgement in known.get("accepted", ())],
        )
        found.salt = known.get("salt", found.salt)
        for kind, written in known["needles"]:
            value = written if isinstance(written, str) else bytes.fromhex(written["hex"])
            if "salt" in known:
                found.needles.setdefault((kind, value))
            elif kind in _KINDS:
                # An earlier version sealed everything that was stored, also what unknown callers had chosen.
                found.add(kind, value)
        if known.get("before") is not None:
            found.before = {(place, path, value): count for place, path, value, count in known["before"]}
        return found

    def followed_by(self, later: SearchValues) -> SearchValues:
        """Return this with what was collected later for the same request; the numbers of its values stay."""
        numbers = {key: number for number, key in enumerate(later.needles)}
        for key in later.needles:
            self.needles.setdefault(key)
        self.left_out |= later.left_out
        self.since = min((since for since in (self.since, later.since) if since is not None), default=None)
        if later.before is not None:
            ours = {key: number for number, key in enumerate(self.needles)}
            moved = {numbers[key]: ours[key] for key in later.needles}
            self.before = (self.before or {}) | {
                (place, path, moved[value]): count for (place, path, value), count in later.before.items()
            }
        return self


def _says_nothing(kind: str, value: str) -> str | None:
    """Return why a value tells nobody, or None if it does."""
    if kind == "ip":
        try:
            address = ipaddress.ip_address(value.strip())
        except ValueError:
            return "not an IP address"
        own = address.is_loopback or address.is_unspecified or address.is_link_local or address.is_multicast
        if own or any(address in network for network in _EVERYBODYS):
            return "an address that many machines share"
    elif kind == "secret" and len(value) < _SHORTEST_SECRET:
        return f"shorter than {_SHORTEST_SECRET} characters"
    elif kind in WEAK and is_own_text(value):
        return "a word of the platform's own texts"
    return None


def collected(accounts: Accounts, lake: Lakehouse, subject_id: str, categories: Collection[Category]) -> SearchValues:
    """Return what of a person is to be looked for once these categories are destroyed."""
    found = SearchValues()
    with accounts.store.reading() as rx:
        row = accounts.account_of(rx, subject_id)
        if row is not None and "identity" in categories:
            found.since = row["created_at"]
            found.add("user_id", row["user_id"])
            found.add("lookup", bytes(row["username_lookup"]), bytes(row["email_lookup"]))
            users = schema.users.c
            same = sa.select(sa.func.count()).where(users.password_hash == row["password_hash"])
            if rx.execute(same).scalar_one() == 1:
                found.add("password_hash", row["password_hash"])
            else:
                found.left_out.add(("password_hash", "several accounts share it"))
        keys = schema.subject_keys.c
        chosen = sa.select(keys.wrapped).where(keys.subject_id == subject_id, keys.category.in_(categories))
        found.add("wrapped_key", *(bytes(key) for key in rx.execute(chosen).scalars()))
        if "sessions" in categories:
            tokens = sa.select(schema.sessions.c.token_hash).where(schema.sessions.c.subject_id == subject_id)
            found.add("token_hash", *(bytes(token) for token in rx.execute(tokens).scalars()))
        if "credentials" in categories:
            hashes = sa.select(schema.api_keys.c.key_hash).where(schema.api_keys.c.subject_id == subject_id)
            found.add("key_hash", *(bytes(hashed) for hashed in rx.execute(hashes).scalars()))
    names: dict[str, list[str]] = {"first_name": [], "last_name": []}
    for contract in USER_TABLES:
        category = CATEGORY.get(contract.name)
        if category is None or category not in categories:
            continue
        cipher = accounts.ciphers([subject_id], category).get(subject_id)
        if cipher is None:
            continue
        for rows in _own_rows(lake, contract, subject_id):
            for column in contract.columns:
                if not column.personal:
                    continue
                # The newest rows come last.
                texts = rows[column.name].drop_nulls().unique(maintain_order=True).reverse().to_list()
                found.add("envelope", *texts[:_MOST_VALUES])
                kind = _COLUMNS.get((contract.name, column.name))
                if kind is None:
                    continue
                for text in dict.fromkeys(cipher.decrypt(contract.name, column.name, envelope) for envelope in texts):
                    found.add(kind, *_FORMS.get(kind, _as_is)(text))
                    if kind in names and text not in names[kind]:
                        names[kind].append(text)
    for first in names["first_name"][:20]:
        for last in names["last_name"][:20]:
            together = (f"{first} {last}", f"{last} {first}", f"{last}, {first}", f"{first}{last}", f"{last}{first}")
            found.add("full_name", *together)
    return found


def _spellings(email: str) -> tuple[str, ...]:
    """Return an address as it is, and with its domain as the DNS and as people write it."""
    import idna

    local, _, domain = email.rpartition("@")
    found = [email]
    spellings: tuple[Callable[[], str], ...] = (
        lambda: domain.encode("idna").decode(),
        lambda: domain.encode("ascii").decode("idna"),
        lambda: idna.encode(domain, uts46=True).decode(),
        lambda: idna.decode(domain),
    )
    for spell in spellings:
        # One that cannot be spelled so has no such spelling; idna's errors are of this kind too.
        with suppress(UnicodeError):
            found.append(f"{local}@{spell()}")
    return tuple(dict.fromkeys(found))


def _keys(text: str) -> tuple[str, ...]:
    """Return a provider's key: the text, or what stands in it beside the name of a provider outside of the list."""
    with suppress(ValueError, TypeError, KeyError):
        return text, str(json.loads(text)["api_key"])
    return (text,)


def _as_is(text: str) -> tuple[str, ...]:
    return (text,)


#: In which forms a value is looked for, where it has more than one.
_FORMS: Final[dict[str, Callable[[str], tuple[str, ...]]]] = {"email": _spellings, "secret": _keys}


def _own_rows(lake: Lakehouse, contract: TableContract, subject_id: str) -> Iterator[pl.DataFrame]:
    """Yield the personal columns of a subject's rows in every retained version, the newest first."""
    columns = [column.name for column in contract.columns if column.personal]
    found = retained(lake, contract)
    if found is None:
        return
    for file in sorted(found.files, key=lambda file: file.name not in found.current):
        if file.may_hold(subject_id):
            rows = read_file(lake, contract, file, ["subject_id", *columns])
            yield rows.filter(pl.col("subject_id") == subject_id)
