"""Erasing a person for good, and proving it (GDPR, article 17).

An erasure is a request in the operational store that goes through states; each step may be done again, so a process
that dies at any point is continued by whoever runs the request next.

    requested -> destroyed    one transaction: keys, identity, look-ups, sessions, counters go, the log says so.
                              From its commit on nobody can read anything of the person, wherever copies are.
    destroyed -> purged       exports deleted, live rows of the lake deleted or redacted, the store's journal and
                              freed pages overwritten, old data files vacuumed
    purged    -> verified     everything is searched for every value of the person; every retained version of every
                              user table still reads, with exactly the other persons' rows decryptable
    verified  -> done         the certificate is signed; only now
    held, failed              a legal hold keeps a part; something was found.  Both are run again later.

What to search for is known only before the destruction.  It is kept until the proof, encrypted under a key of the
request alone, which is destroyed with it.
"""

from __future__ import annotations

import ipaddress
import json
import re
import secrets
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import polars as pl
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy.pool import NullPool

from hfthot_platform import __version__
from hfthot_platform.accounts import schema
from hfthot_platform.accounts.changes import AuditEvent, to_json
from hfthot_platform.accounts.publisher import Publisher, flush
from hfthot_platform.accounts.records import Request, moment
from hfthot_platform.accounts.service import CATEGORIES, Accounts
from hfthot_platform.contracts import CONTRACTS, TableContract
from hfthot_platform.contracts.accounts import CATEGORY, USER_TABLES, Category
from hfthot_platform.errors import ErasureUnverifiedError, LegalHoldError, PrivacyError
from hfthot_platform.lakehouse import Lakehouse, Stamp
from hfthot_platform.privacy._files import read_file, retained
from hfthot_platform.privacy._history import check_history, clean_log
from hfthot_platform.privacy.certificate import ErasureCertificate, issue, verify
from hfthot_platform.privacy.evidence import record_destruction
from hfthot_platform.privacy.export import delete_exports
from hfthot_platform.privacy.holds import forget_reasons, held_categories
from hfthot_platform.privacy.scan import Database, Finding, Folder, Needle, ObjectStore, Place, Progress, scan
from hfthot_platform.privacy.vault import Wrapped
from hfthot_platform.settings import dagster_home

__all__ = [
    "LIMITS",
    "ErasureState",
    "delete_user_permanent",
    "list_erasures",
    "pending_erasures",
    "places_of",
    "public_key",
    "request_erasure",
    "run_erasure",
]

_REQUEST_KEY: Final = "erasure:"
#: Values of one kind that are looked for; the newest of more.
_MOST_VALUES: Final = 200
_DAY: Final = 86_400_000_000
#: States in which there is something to do; a held one waits for the release of its hold.
_OPEN: Final = ("requested", "destroyed", "purged", "verified", "held", "failed")
#: Kinds of values that another person may have too, and whose export may therefore show.
_SHARED: Final = frozenset({"first_name", "last_name", "ip", "user_agent", "preferences", "personal_detail"})
_WORDS: Final = frozenset({"username", "first_name", "last_name", "ip"})
#: What the platform's own folders in the system's temporary folder are called.
_TEMPORARY: Final = ("staging-*", "hfthot-canary-*")
_WORD: Final = re.compile(r"[\w-]+")

#: What no certificate of ours covers.
LIMITS: Final[tuple[str, ...]] = (
    "Blocks that a disk or file system remapped, or keeps as snapshots, are not visible to the platform.",
    (
        "Backups are not searched. One of the lake alone cannot be read for the person. One of the operational store "
        "from before the erasure can, together with the key-encryption key of that time, until a rotation drops it."
    ),
    "A PostgreSQL server's write-ahead log and its archives are outside the platform.",
    "Values of fewer than four characters, and ordinary words of the platform, are not searched for.",
    "What was handed out before (exports, query results, copies made by their readers) is not within reach.",
)
_LIMITS_WITHOUT_POSTGRES: Final = tuple(each for each in LIMITS if not each.startswith("A PostgreSQL"))


# -- asking ---------------------------------------------------------------------------------------------------


def delete_user_permanent(
    accounts: Accounts,
    lake: Lakehouse,
    user_id: str,
    keep_history: bool = True,  # noqa: FBT001, FBT002 - the product's signature
    *,
    request: Request = Request(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> ErasureCertificate:
    """Erase a person for good and return the certificate that says so.

    Args:
        accounts: the accounts.
        lake: the lake.
        user_id: whom.
        keep_history: True leaves the old versions of the user tables readable for everybody else; the person's
            ciphertext, unreadable at once, leaves the disk when the tables' time travel has passed.  False removes
            it at once, and with it the old versions of the user tables.
        request: who asks, from where.
        progress: called while the proof reads.

    Raises:
        UnknownUserError, ErasedSubjectError: there is no such account any more.
        PermissionDeniedError: the caller is neither the person nor an administrator.
        LegalHoldError: a hold keeps all or part; the rest is erased, and the request completes after the release.
        ErasureUnverifiedError: something of the person was found; the message says where.  Nothing of the account
            can be read any more, but there is no certificate: remove what was found and run the request again.
    """
    request_id = request_erasure(accounts, user_id, keep_history=keep_history, request=request)
    return run_erasure(accounts, lake, request_id, progress=progress)


def request_erasure(
    accounts: Accounts,
    user_id: str,
    *,
    keep_history: bool = True,
    request: Request = Request(),  # noqa: B008 - frozen
) -> str:
    """Ask for an erasure and return the request's random id, which is all that `run_erasure` needs.

    The account is deleted softly with it: from now on it can neither sign in nor change.  A person has one open
    request; asking again returns it, and a wish for no history is added to it.

    Raises:
        UnknownUserError, ErasedSubjectError: there is no such account any more.
        PermissionDeniedError: the caller is neither the person nor an administrator; without history, no administrator.
    """
    with accounts.operation("privacy.erasure_request", request, user_id) as tx:
        # What everybody has of the past is an administrator's to remove.
        actor = accounts.actor(tx, request, user_id, admin=not keep_history)
        subject_id = str(accounts.account(tx, user_id)["subject_id"])
        requests = schema.erasure_requests
        known = _open_request(tx, subject_id)
        if known is not None:
            if known.keep_history and not keep_history:
                tx.execute(
                    sa.update(requests).where(requests.c.request_id == known.request_id).values(keep_history=False)
                )
            return known.request_id
        request_id = secrets.token_hex(16)
        tx.execute(
            sa.insert(requests).values(
                request_id=request_id,
                subject_id=subject_id,
                keep_history=keep_history,
                state="requested",
                requested_at=tx.now,
            )
        )
        event = accounts.event(
            tx,
            "privacy.erasure_request",
            subject_id,
            actor,
            request,
            resource=request_id,
            detail={"keep_history": keep_history},
        )
        tx.log([], event)
    # After the request, so that the person, who can do nothing any more from here on, may have made it.
    accounts.delete_user_soft(user_id)
    return request_id


def pending_erasures(accounts: Accounts) -> list[str]:
    """Return the ids of requests that can be run now, the oldest first: new, interrupted, or no longer held.

    Failed ones are not among them: somebody has to look first.
    """
    requests = schema.erasure_requests
    with accounts.store.reading() as rx:
        chosen = sa.select(requests).where(requests.c.state.in_(_OPEN)).order_by(requests.c.requested_at)
        found = [_Case.of(row) for row in rx.execute(chosen).mappings()]
        return [
            each.request_id
            for each in found
            if each.state != "failed"
            and not (each.state == "held" and set(CATEGORIES) - each.destroyed <= held_categories(rx, each.subject_id))
        ]


@dataclass(frozen=True)
class ErasureState:
    """Where a request stands."""

    request_id: str
    #: `requested`, `destroyed`, `purged`, `verified`, `done`, `held` or `failed`.
    state: str
    requested_at: datetime
    keep_history: bool
    #: What the last proof found, where it failed; no values.
    problem: str | None


def list_erasures(accounts: Accounts) -> list[ErasureState]:
    """Return every request, the newest first."""
    requests = schema.erasure_requests
    with accounts.store.reading() as rx:
        rows = rx.execute(sa.select(requests).order_by(requests.c.requested_at.desc())).mappings()
        cases = [_Case.of(row) for row in rows]
    return [
        ErasureState(
            each.request_id,
            each.state,
            moment(each.requested_at),
            each.keep_history,
            each.report.get("failure", {}).get("what"),
        )
        for each in cases
    ]


# -- the request ----------------------------------------------------------------------------------------------


@dataclass
class _Case:
    """A request as the store has it."""

    request_id: str
    subject_id: str
    keep_history: bool
    state: str
    requested_at: int
    sealed: str | None
    certificate: str | None
    #: What was done so far: times, counts, categories, ids of deleted exports.
    report: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, row: Mapping[Any, Any]) -> _Case:
        sealed = row["sealed"]
        return cls(
            request_id=row["request_id"],
            subject_id=row["subject_id"],
            keep_history=bool(row["keep_history"]),
            state=row["state"],
            requested_at=row["requested_at"],
            sealed=None if sealed is None else bytes(sealed).decode("ascii"),
            certificate=row["certificate"],
            report=json.loads(row["report"] or "{}"),
        )

    @property
    def destroyed(self) -> set[str]:
        """Return the categories that are gone."""
        return set(self.report.get("categories", ()))


def _open_request(connected: Any, subject_id: str) -> _Case | None:
    requests = schema.erasure_requests
    chosen = sa.select(requests).where(requests.c.subject_id == subject_id, requests.c.state.in_(_OPEN))
    row = connected.execute(chosen).mappings().first()
    return None if row is None else _Case.of(row)


def _load(accounts: Accounts, request_id: str) -> _Case:
    with accounts.store.reading() as rx:
        chosen = sa.select(schema.erasure_requests).where(schema.erasure_requests.c.request_id == request_id)
        row = rx.execute(chosen).mappings().first()
    if row is None:
        raise PrivacyError(
            "no erasure has this id", where="request_id", hint="`hfthot privacy erase --list` lists them."
        )
    return _Case.of(row)


def _save(tx: Any, case: _Case, state: str, **values: Any) -> None:
    case.state = state
    requests = schema.erasure_requests
    tx.execute(
        sa.update(requests)
        .where(requests.c.request_id == case.request_id)
        .values(state=state, report=to_json(case.report), **values)
    )


# -- doing ----------------------------------------------------------------------------------------------------


def run_erasure(
    accounts: Accounts, lake: Lakehouse, request_id: str, *, progress: Progress | None = None
) -> ErasureCertificate:
    """Carry a request out, from wherever it stands, and return its certificate.  One runs at a time.

    Raises:
        PrivacyError: there is no such request.
        LegalHoldError: a hold keeps all or part; the request completes when it is run after the release.
        ErasureUnverifiedError: something was found, or a place could not be searched; the message says where.
        LockTimeoutError: another erasure, or a writer of a user table, worked for too long.
    """
    with accounts.store.exclusively("erasure", 3600.0):
        case = _load(accounts, request_id)
        if case.state in {"requested", "held"}:
            _destroy(accounts, lake, case)
        if case.state in {"destroyed", "failed"} or case.report.get("unpurged"):
            _purge(accounts, lake, case)
        if case.state == "held":
            raise _held(case)
        if case.state == "purged":
            _prove(accounts, lake, case, progress)
        if case.state == "verified":
            _certify(accounts, case)
        assert case.certificate is not None
        return _filed(accounts, verify(case.certificate, public_key(accounts)))


def _destroy(accounts: Accounts, lake: Lakehouse, case: _Case) -> None:
    """Destroy what no hold keeps; what to search for later is sealed in the same transaction."""
    with accounts.store.reading() as rx:
        wanted = [each for each in CATEGORIES if each not in case.destroyed | held_categories(rx, case.subject_id)]
    found = _Values()
    if wanted:
        _disable(accounts, case.subject_id)
        # Nothing can happen to the account any more, so what is read here is all that will be destroyed.
        flush(accounts.store, lake)
        found = _collect(accounts, lake, case.subject_id, wanted)
    with accounts.store.transaction() as tx:
        held = held_categories(tx, case.subject_id)
        todo = [each for each in wanted if each not in held]
        if todo:
            # Before the commit: what is on the list and was not committed is done by the next run.
            record_destruction(accounts, case.request_id, case.subject_id, [*todo])
            exports = schema.exports
            mine = exports.c.subject_id == case.subject_id
            ids = list(tx.execute(sa.select(exports.c.request_id).where(mine)).scalars())
            tx.execute(sa.delete(exports).where(mine))
            counts = accounts.destroy(tx, case.subject_id, todo, request_id=case.request_id)
            forget_reasons(tx, case.subject_id, todo)
            sealed = _seal(accounts, tx, case, found)
            case.report["categories"] = sorted(case.destroyed | set(todo))
            case.report["exports"] = sorted({*case.report.get("exports", ()), *ids})
            case.report["destroyed_at"] = tx.now
            case.report["unpurged"] = True
            _count(case, {f"store.{name}": count for name, count in counts.items()})
            state = "destroyed" if case.destroyed == set(CATEGORIES) else "held"
            _save(tx, case, state, sealed=sealed)
        elif case.state != "held":
            event = AuditEvent(
                action="privacy.erasure_held",
                outcome="refused",
                subject_id=case.subject_id,
                resource=case.request_id,
                detail=to_json({"held": sorted(held)}),
            )
            tx.log([], event)
            _save(tx, case, "held")


def _disable(accounts: Accounts, subject_id: str) -> None:
    """Delete the account softly, where whoever asked was killed before that or it was restored since."""
    with accounts.store.reading() as rx:
        row = accounts.account_of(rx, subject_id)
    if row is not None and row["deleted_at"] is None:
        accounts.delete_user_soft(row["user_id"])


def _held(case: _Case) -> LegalHoldError:
    kept = [each for each in CATEGORIES if each not in case.destroyed]
    done = f"; {', '.join(sorted(case.destroyed))} erased" if case.destroyed else "; nothing was erased"
    return LegalHoldError(
        f"a legal hold keeps {', '.join(kept)}{done}",
        where=f"erasure {case.request_id}",
        hint="The request completes when it is run after the hold was released (the erasure sensor does so by itself).",
    )


def _purge(accounts: Accounts, lake: Lakehouse, case: _Case) -> None:
    """Remove from every disk what the destruction made unreadable."""
    counts: dict[str, int] = {}
    if case.report.get("exports"):
        counts["exports"] = delete_exports(accounts, case.report["exports"])
    stamp = Stamp(run_id=f"erasure-{case.request_id}", asset="privacy.erasure")
    if case.destroyed:
        for commit in Publisher(accounts.store, lake).publish(stamp=stamp).commits:
            counts[f"lake.{commit.table}"] = commit.rows_forgotten
        accounts.store.purge()
        for contract in USER_TABLES:
            vacuumed = clean_log(lake, contract, stamp=stamp, keep_history=case.keep_history)
            if vacuumed:
                counts[f"files.{contract.name}"] = vacuumed
    with accounts.store.transaction() as tx:
        _count(case, counts)
        case.report["purged_at"] = tx.now
        case.report.pop("unpurged", None)
        _save(tx, case, "held" if case.state == "held" else "purged")


def _count(case: _Case, counts: Mapping[str, int]) -> None:
    known = case.report.setdefault("counts", {})
    for name, count in counts.items():
        known[name] = known.get(name, 0) + count


def _prove(accounts: Accounts, lake: Lakehouse, case: _Case, progress: Progress | None) -> None:
    """Search everything, read every version; raise, and say so in the request, unless nothing is left."""
    try:
        verification = _verified(accounts, lake, case, progress)
    except ErasureUnverifiedError as error:
        with accounts.store.transaction() as tx:
            case.report["failure"] = {"at": tx.now, "what": error.what, "where": error.where}
            event = AuditEvent(
                action="privacy.erasure_unverified",
                outcome="failure",
                subject_id=case.subject_id,
                resource=case.request_id,
            )
            tx.log([], event)
            _save(tx, case, "failed")
        raise
    with accounts.store.transaction() as tx:
        case.report.pop("failure", None)
        case.report["verification"] = verification
        case.report["verified_at"] = tx.now
        # What was searched for is not needed any more: its key goes, and then its ciphertext.
        name = _REQUEST_KEY + case.request_id
        tx.execute(sa.delete(schema.keys).where(schema.keys.c.name == name))
        case.sealed = None
        _save(tx, case, "verified", sealed=None)


def _certify(accounts: Accounts, case: _Case) -> None:
    """Overwrite what the proof needed, then sign."""
    accounts.store.purge()
    key = Ed25519PrivateKey.from_private_bytes(accounts.installation_key("signing"))
    report = case.report
    history = max(contract.history_days for contract in USER_TABLES)
    # Files are retired when the rows go, and taken by the first nightly maintenance after the time travel.
    until = moment(report["purged_at"]) + timedelta(days=history + 1) if case.keep_history else None
    now = accounts.clock()
    limits = LIMITS if not accounts.store.files() else _LIMITS_WITHOUT_POSTGRES
    certificate = issue(
        key,
        {
            "request_id": case.request_id,
            "requested_at": moment(case.requested_at),
            "destroyed_at": moment(report["destroyed_at"]),
            "verified_at": moment(report["verified_at"]),
            "issued_at": now,
            "keep_history": case.keep_history,
            "ciphertext_until": until,
            "counts": report["counts"],
            "verification": report["verification"],
            "limits": limits,
            "platform_version": __version__,
        },
    )
    with accounts.store.transaction() as tx:
        event = AuditEvent(action="privacy.erasure_done", subject_id=case.subject_id, resource=case.request_id)
        tx.log([], event)
        case.certificate = certificate.text
        # The counts are in the certificate.
        case.report = {"categories": sorted(case.destroyed)}
        _save(tx, case, "done", certificate=certificate.text, finished_at=tx.now)


def _filed(accounts: Accounts, certificate: ErasureCertificate) -> ErasureCertificate:
    """Make sure that the certificate is in its folder."""
    folder = accounts.settings.certificates
    path = folder / f"{certificate.request_id}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{certificate.request_id}.json"
        certificate.save(temporary)
        temporary.replace(path)
    return certificate


def public_key(accounts: Accounts) -> Ed25519PublicKey:
    """Return the key that the installation's certificates are checked with."""
    return Ed25519PrivateKey.from_private_bytes(accounts.installation_key("signing")).public_key()


# -- what to look for -----------------------------------------------------------------------------------------


class _Values:
    """Values of a person by kind, without repetition, in the order of their finding."""

    def __init__(self) -> None:
        self.needles: dict[tuple[str, str | bytes], bool] = {}
        self.left_out: set[tuple[str, str]] = set()

    def add(self, kind: str, *values: str | bytes | None) -> None:
        for value in values:
            if not value:
                continue
            if isinstance(value, str) and (reason := _ordinary(kind, value)):
                self.left_out.add((kind, reason))
            elif sum(known == kind for known, _ in self.needles) >= _MOST_VALUES:
                self.left_out.add((kind, f"beyond the newest {_MOST_VALUES} values"))
            else:
                self.needles.setdefault((kind, value), kind in _WORDS)

    def to_json(self) -> str:
        rows = [[kind, value if isinstance(value, str) else {"hex": value.hex()}] for kind, value in self.needles]
        return json.dumps({"needles": rows, "left_out": sorted(self.left_out)})

    def merge(self, text: str) -> None:
        """Add what was sealed before."""
        known = json.loads(text)
        for kind, value in known["needles"]:
            self.needles.setdefault(
                (kind, value if isinstance(value, str) else bytes.fromhex(value["hex"])), kind in _WORDS
            )
        self.left_out |= {(kind, reason) for kind, reason in known["left_out"]}


def _ordinary(kind: str, value: str) -> str | None:
    """Return why a value says nothing about anybody, or None if it does."""
    if kind == "ip":
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            return None
        return "an address that every machine has" if address.is_loopback or address.is_unspecified else None
    return "an ordinary word of the platform" if value.casefold() in _vocabulary() else None


@lru_cache(maxsize=1)
def _vocabulary() -> frozenset[str]:
    """Return the words that the platform itself writes into tables, logs and metadata."""
    texts: list[str] = ["test", "user", "username", "guest", "none", "null", "true", "false", "unknown", "example"]
    for contract in CONTRACTS.values():
        texts += [contract.name, contract.description]
        texts += [text for column in contract.columns for text in (column.name, column.description)]
        texts += [rule.says for rule in contract.rules]
    words = {word for text in texts for word in _WORD.findall(text.casefold())}
    return frozenset(words | {part for word in words for part in re.split(r"[_-]", word)})


def _collect(accounts: Accounts, lake: Lakehouse, subject_id: str, categories: Collection[Category]) -> _Values:
    """Return every value of a person that is going to be destroyed."""
    found = _Values()
    with accounts.store.reading() as rx:
        row = accounts.account_of(rx, subject_id)
        if row is not None and "identity" in categories:
            found.add("user_id", row["user_id"])
            found.add("lookup", bytes(row["username_lookup"]), bytes(row["email_lookup"]))
            found.add("password_hash", row["password_hash"])
        keys = schema.subject_keys.c
        chosen = sa.select(keys.wrapped).where(keys.subject_id == subject_id, keys.category.in_(categories))
        found.add("wrapped_key", *(bytes(each) for each in rx.execute(chosen).scalars()))
        if "sessions" in categories:
            tokens = sa.select(schema.sessions.c.token_hash).where(schema.sessions.c.subject_id == subject_id)
            found.add("token_hash", *(bytes(each) for each in rx.execute(tokens).scalars()))
        if "credentials" in categories:
            hashes = sa.select(schema.api_keys.c.key_hash).where(schema.api_keys.c.subject_id == subject_id)
            found.add("key_hash", *(bytes(each) for each in rx.execute(hashes).scalars()))
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
                for text in dict.fromkeys(cipher.decrypt(contract.name, column.name, each) for each in texts):
                    found.add(column.name, *_leaves(column.name, text))
                found.add("envelope", *texts[:_MOST_VALUES])
    names = {
        kind: [str(value) for known, value in found.needles if known == kind] for kind in ("first_name", "last_name")
    }
    for first in names["first_name"]:
        for last in names["last_name"]:
            found.add("full_name", f"{first} {last}", f"{last} {first}", f"{last}, {first}")
    return found


def _leaves(column: str, text: str) -> list[str]:
    """Return what of a value is looked for: JSON by its texts, where they are long enough to be somebody's."""
    if column not in {"preferences", "personal_detail"}:
        return [text]
    found: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, str) and len(value) >= 8:
            found.append(value)
        elif isinstance(value, Mapping):
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    walk(json.loads(text))
    return found


def _own_rows(lake: Lakehouse, contract: TableContract, subject_id: str) -> Iterator[pl.DataFrame]:
    """Yield the personal columns of a subject's rows in every retained version, the newest first."""
    columns = [column.name for column in contract.columns if column.personal]
    found = retained(lake, contract)
    if found is None:
        return
    for file in sorted(found.files, key=lambda each: each.name not in found.current):
        if file.may_hold(subject_id):
            rows = read_file(lake, contract, file, ["subject_id", *columns])
            yield rows.filter(pl.col("subject_id") == subject_id)


def _seal(accounts: Accounts, tx: Any, case: _Case, found: _Values) -> bytes:
    """Return the values, encrypted under a key of the request alone; earlier ones of the request are among them."""
    name = _REQUEST_KEY + case.request_id
    keys = schema.keys
    row = tx.execute(sa.select(keys.c.kek_id, keys.c.wrapped).where(keys.c.name == name)).first()
    if row is None:
        wrapped = accounts.vault.new_key(accounts.current_kek(tx))
        tx.execute(sa.insert(keys).values(name=name, kek_id=wrapped.kek_id, wrapped=wrapped.blob, created_at=tx.now))
    else:
        wrapped = Wrapped(row[0], bytes(row[1]))
    cipher = accounts.vault.cipher(case.request_id, wrapped)
    if case.sealed is not None:
        found.merge(cipher.decrypt("erasure_requests", "sealed", case.sealed))
    case.sealed = cipher.encrypt("erasure_requests", "sealed", found.to_json())
    return case.sealed.encode("ascii")


def _unsealed(accounts: Accounts, case: _Case) -> _Values:
    name = _REQUEST_KEY + case.request_id
    with accounts.store.reading() as rx:
        chosen = sa.select(schema.keys.c.kek_id, schema.keys.c.wrapped).where(schema.keys.c.name == name)
        row = rx.execute(chosen).first()
    if row is None or case.sealed is None:
        raise PrivacyError(
            "what to search for is missing from the request",
            where=f"erasure {case.request_id}",
            hint="The store was restored from a time in between; restore it from before the request.",
        )
    found = _Values()
    cipher = accounts.vault.cipher(case.request_id, Wrapped(row[0], bytes(row[1])))
    found.merge(cipher.decrypt("erasure_requests", "sealed", case.sealed))
    return found


# -- proving --------------------------------------------------------------------------------------------------


def _object_store(lake: Lakehouse) -> Any:
    """Return the object store of a lake as a file system of pyarrow."""
    import pyarrow as pa
    from deltalake.fs import DeltaStorageHandler
    from pyarrow.fs import PyFileSystem

    class Stream:
        """Hands on bytes, which is all that the Delta library's streams take; pyarrow writes buffers."""

        def __init__(self, raw: Any) -> None:
            self._raw = raw

        def write(self, data: Any) -> int:
            return int(self._raw.write(bytes(data)) or 0)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._raw, name)

    class Handler(DeltaStorageHandler):
        def open_output_stream(self, path: str, metadata: dict[str, str] | None = None) -> pa.PythonFile:
            return pa.PythonFile(Stream(self._handler.open_output_stream(path, metadata)), mode="w")

    return PyFileSystem(Handler(lake.storage.root, dict(lake.storage.options)))


def places_of(accounts: Accounts, lake: Lakehouse, home: Path | None = None) -> tuple[Place, ...]:
    """Return everything that the platform writes: where the proof searches.

    Args:
        accounts: the accounts, their store and settings.
        lake: the lake.
        home: Dagster's folder; by default that of the environment.
    """
    settings = accounts.settings
    home = home or dagster_home()
    found: list[Place] = []
    if lake.storage.local is not None:
        found.append(Folder("lake", lake.storage.local))
    else:
        found.append(ObjectStore("lake", _object_store(lake)))
    if files := accounts.store.files():
        found.append(Folder("store", files[0].parent))
    else:
        found.append(Database("store", sa.create_engine(accounts.store.url, poolclass=NullPool, hide_parameters=True)))
    found += [
        Folder("exports", settings.exports),
        Folder("certificates", settings.certificates),
        Folder("landing", settings.landing),
        Folder("scratch", settings.scratch),
        Folder("reports", settings.scratch.parent / "reports"),
    ]
    if home is not None:
        found.append(Folder("dagster", home))
    found.append(Folder("temporary", Path(tempfile.gettempdir()), only=_TEMPORARY))
    return tuple(found)


def _verified(accounts: Accounts, lake: Lakehouse, case: _Case, progress: Progress | None) -> dict[str, Any]:
    """Return what was searched and read.

    Raises:
        ErasureUnverifiedError: something of the person is left, or a place could not be searched.
    """
    found = _unsealed(accounts, case)
    needles = [Needle(kind, value, whole) for (kind, value), whole in found.needles.items()]
    places = places_of(accounts, lake)
    report = scan(needles, places, progress=progress)
    left = [each for each in report.findings if not _expected(each, case)]
    where = f"erasure {case.request_id}"
    if report.unreadable:
        raise ErasureUnverifiedError(
            f"{len(report.unreadable)} files could not be searched, the first one is {report.unreadable[0]}",
            where=where,
            hint="Make them readable for the platform, or remove them; then run the request again.",
        )
    if left:
        raise ErasureUnverifiedError(
            f"{len(left)} places still hold something of the person, the first one is {left[0]}",
            where=where,
            hint="Remove it there, then run the request again. The account itself is unreadable already.",
        )
    history = check_history(accounts, lake, case.subject_id, keep_history=case.keep_history, where=where)
    left_out = sorted(found.left_out | set(report.left_out))
    return {
        "searched_values": report.needles,
        "not_searched": [list(each) for each in left_out],
        "places": {each.name: {"files": each.files, "bytes": each.bytes} for each in report.places},
        "scanned_files": report.files,
        "scanned_bytes": report.bytes,
        "decoded_bytes": report.bytes_decoded,
        "scan_seconds": round(report.seconds, 3),
        "opaque_files": sum(len(each.opaque) for each in report.places),
        "canaries_planted": report.canaries,
        "canaries_found": report.canaries,
        **history,
    }


def _expected(finding: Finding, case: _Case) -> bool:
    """Whether a finding is no remainder."""
    if finding.kind == "envelope":
        # Ciphertext without a key; with history kept it stays in old data files until the time travel has passed.
        return case.keep_history and finding.place == "lake"
    # Another person's export may show the same name or address.
    return finding.place == "exports" and finding.kind in _SHARED
