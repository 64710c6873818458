"""What is kept outside of store and lake, so that restoring or altering both cannot undo what was done.

Two things lie in the folder of the certificates, which belongs in a backup of its own, never in the store's:

* `erasures.jsonl`, or on an object store, where nothing can be appended, an object for each in `erasures/`: every
  destruction of a person's keys, by pseudonym, written before the destruction is committed.  After a restore of an
  older backup, `hfthot accounts restore` carries them out again.
* `heads/`: each day the number and hash of the newest entry of the audit log, and the anchor that retention left.  A
  log whose tail was cut off, or whose anchor was moved, no longer fits them.

Both are signed with the installation's key: whoever can write to the folder cannot have anybody erased, and cannot
make an altered log fit.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final

import sqlalchemy as sa
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hfthot_platform.core.errors import CertificateError
from hfthot_platform.core.files import made_folder, open_private, sync_file, sync_folder
from hfthot_platform.core.time import moment
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.publication.chain import ChainReport, Problem, verify_chain
from hfthot_platform.storage.folders import ObjectFolder, StoredFolder, certificates_folder
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.changes import GENESIS, to_json

__all__ = [
    "Destruction",
    "ExportedHead",
    "check_log",
    "destructions",
    "export_head",
    "exported_heads",
    "record_destruction",
]

_LIST: Final = "erasures.jsonl"
_OBJECTS: Final = "erasures"
_HEADS: Final = "heads"


@dataclass(frozen=True)
class Destruction:
    """That keys of a subject were destroyed."""

    request_id: str
    subject_id: str
    categories: tuple[str, ...]
    at: int


@dataclass(frozen=True)
class ExportedHead:
    """The newest entry of the audit log at a time, and what retention had left of its beginning."""

    seq: int
    hash: str
    #: Time of the export in microseconds.
    at: int
    anchor_seq: int
    anchor_hash: str


# -- the list of erasures -------------------------------------------------------------------------------------


def record_destruction(accounts: Accounts, request_id: str, subject_id: str, categories: list[str]) -> None:
    """Append a destruction to the list, on the disk when this returns.  One that is there already is not repeated.

    It is written before the destruction itself: after a crash between the two the request is run again, and after a
    restore it is carried out, which is what the person asked for.
    """
    entry = Destruction(request_id, subject_id, tuple(sorted(categories)), accounts.now())
    line = _signed(accounts, {**vars(entry), "categories": list(entry.categories)})
    folder = certificates_folder(accounts.settings)
    if isinstance(folder, ObjectFolder):
        # The same one has the same name.
        what = sha256(to_json([entry.request_id, entry.subject_id, *entry.categories]).encode()).hexdigest()
        folder.create(f"{_OBJECTS}/{request_id}-{what[:16]}.json", line.encode("ascii") + b"\n")
        return
    path = folder.path / _LIST
    if any(replace(known, at=entry.at) == entry for known in destructions(accounts)):
        return
    made_folder(path.parent, "certificates", private=True)
    handle = open_private(path)
    try:
        # A line that a crash cut off was never acknowledged.
        os.lseek(handle, 0, os.SEEK_SET)
        whole = _whole_lines(_content(handle))
        os.ftruncate(handle, len(whole))
        os.lseek(handle, 0, os.SEEK_END)
        os.write(handle, line.encode("ascii") + b"\n")
        sync_file(handle)
    finally:
        os.close(handle)
    sync_folder(path.parent)


def destructions(accounts: Accounts) -> list[Destruction]:
    """Return the list, the oldest first.

    Raises:
        CertificateError: a line was altered, or was signed by another installation.
    """
    folder = certificates_folder(accounts.settings)
    if isinstance(folder, ObjectFolder):
        lines = [(file.name, (folder.read(file.name) or b"").rstrip(b"\n")) for file in folder.files(_OBJECTS)]
    else:
        whole = _whole_lines(folder.read(_LIST) or b"").splitlines()
        lines = [(f"{_LIST}, line {number}", line) for number, line in enumerate(whole, 1)]
    if not lines:
        return []
    key = _public(accounts)
    bodies = [_verified(line, key, where) for where, line in lines]
    found = [
        Destruction(body["request_id"], body["subject_id"], tuple(body["categories"]), body["at"]) for body in bodies
    ]
    return sorted(found, key=lambda destruction: destruction.at)


# -- the heads of the audit log -------------------------------------------------------------------------------


def export_head(accounts: Accounts) -> str:
    """Write the newest entry's number and hash, and the anchor, signed, into a file of its own; return where it is.

    Files about entries that retention has removed since are deleted, all but the newest of them.
    """
    with accounts.store.reading() as rx:
        seq, newest = rx.execute(sa.select(schema.change_head.c.seq, schema.change_head.c.hash)).one()
        anchors = schema.retention_anchors
        anchor = rx.execute(sa.select(anchors.c.seq, anchors.c.hash).order_by(anchors.c.seq.desc()).limit(1)).first()
    head = ExportedHead(seq, newest, accounts.now(), *((0, GENESIS) if anchor is None else anchor))
    folder = certificates_folder(accounts.settings)
    name = f"{_HEADS}/{moment(head.at):%Y%m%dT%H%M%S}-{head.seq}.json"
    folder.put(name, _signed(accounts, vars(head)).encode("ascii") + b"\n")
    outdated = [file for file in _head_files(folder) if _seq_of(file) <= head.anchor_seq][:-1]
    folder.remove(outdated)
    return folder.link(name)


def exported_heads(accounts: Accounts) -> list[ExportedHead]:
    """Return the exported heads, the oldest first.

    Raises:
        CertificateError: a file was altered, or was signed by another installation.
    """
    key = _public(accounts)
    folder = certificates_folder(accounts.settings)
    read = ((name, folder.read(name)) for name in _head_files(folder))
    # One that went meanwhile was outdated.
    return [ExportedHead(**_verified(raw.rstrip(b"\n"), key, name)) for name, raw in read if raw is not None]


def check_log(accounts: Accounts, lake: Lakehouse) -> ChainReport:
    """Check the audit log as `verify_chain` does, and against the heads that were exported.

    So it is noticed too if rows, store and hashes were all altered together, if the newest entries were cut off, and
    if the oldest were removed before their time.

    Raises:
        CertificateError: an exported head was altered.
        DamagedTableError, StoreError: the table or the store cannot be read.
    """
    heads = exported_heads(accounts)
    report = verify_chain(lake, accounts.store, {head.seq: head.hash for head in heads})
    problems = [*report.problems, *_against(accounts, heads, report)]
    return replace(report, problems=tuple(dict.fromkeys(problems)), exported_heads=len(heads))


def _against(accounts: Accounts, heads: list[ExportedHead], report: ChainReport) -> Iterator[Problem]:
    anchors = schema.retention_anchors
    with accounts.store.reading() as rx:
        known = {row.seq: row.hash for row in rx.execute(sa.select(anchors.c.seq, anchors.c.hash))}
    kept = timedelta(days=accounts.settings.audit_retention_days)
    for head in heads:
        day = moment(head.at).date()
        if head.seq > report.head_seq:
            yield Problem(
                report.head_seq + 1, f"is missing ({report.head_seq + 1} to {head.seq}, which existed on {day})"
            )
        elif 0 < head.seq <= report.anchor_seq and _age(accounts.clock(), head.at) < kept:
            yield Problem(head.seq, f"was removed too early (it existed on {day})")
        if head.anchor_seq > report.anchor_seq or known.get(head.anchor_seq, head.anchor_hash) != head.anchor_hash:
            yield Problem(head.anchor_seq, f"is no longer the same anchor as on {day}")


def _age(now: datetime, at: int) -> timedelta:
    # Retention cuts by whole days.
    return timedelta(days=(now.date() - moment(at).date()).days)


# -- files and signatures -------------------------------------------------------------------------------------


def _head_files(folder: StoredFolder) -> list[str]:
    names = (file.name for file in folder.files(_HEADS))
    return sorted((name for name in names if name.endswith(".json")), key=lambda name: (_seq_of(name), name))


def _seq_of(name: str) -> int:
    number = name.removesuffix(".json").rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def _public(accounts: Accounts) -> Ed25519PublicKey:
    return _key(accounts).public_key()


def _key(accounts: Accounts) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(accounts.installation_key("signing"))


def _signed(accounts: Accounts, body: Mapping[str, Any]) -> str:
    """Return a body and its signature as one line."""
    signature = base64.b64encode(_key(accounts).sign(to_json(body).encode("ascii"))).decode("ascii")
    return to_json({"body": body, "signature": signature})


def _verified(line: bytes, key: Ed25519PublicKey, where: str) -> dict[str, Any]:
    try:
        document = json.loads(line)
        body, signature = document["body"], base64.b64decode(document["signature"], validate=True)
        key.verify(signature, to_json(body).encode("ascii"))
    except (ValueError, KeyError, TypeError, binascii.Error, InvalidSignature):
        raise CertificateError(
            "the file was altered, or signed by another installation",
            where=where,
            hint="Restore the file from the newest backup of this installation.",
        ) from None
    return dict(body)


def _whole_lines(raw: bytes) -> bytes:
    return raw[: raw.rfind(b"\n") + 1]


def _content(handle: int) -> bytes:
    parts = []
    while part := os.read(handle, 1 << 20):
        parts.append(part)
    return b"".join(parts)
