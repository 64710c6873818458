"""What an installation on several hosts must share, in one table: checked at start, told by the doctor.

A process cannot see the other hosts' disks: what is on the disk of one is not searched, deleted, counted or locked by
the others.  So what more than one host must agree on is named here, with what to do where it is not shared.  What may
differ from host to host (scratch, caches, the gateway's processes) is in `docs/scale.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hfthot_platform.core.errors import NotSharedError
from hfthot_platform.core.settings import ArchiveFeedSettings, Settings

__all__ = ["SHARED", "SharedPart", "not_shared", "require_shared"]


@dataclass(frozen=True)
class SharedPart:
    """Something that all hosts of an installation must share."""

    setting: str
    #: What is wrong where it is not shared: a clause with a subject and a verb.
    what: str
    #: What to do about it.
    hint: str
    #: Whether it is on a disk of one host.
    local: Callable[[Settings], bool]


SHARED: Final[tuple[SharedPart, ...]] = (
    SharedPart(
        "lake_root",
        "the lake is a folder of one host; the other hosts write another lake, or one without locks between them",
        "Set HFTHOT_LAKE_ROOT to an object-store URL, such as s3://bucket/lake.",
        lambda settings: settings.lake_folder() is not None,
    ),
    SharedPart(
        "accounts_url",
        "the accounts are in SQLite, which the processes of one host share",
        "Set HFTHOT_ACCOUNTS_URL to a PostgreSQL database (postgresql+psycopg://...).",
        lambda settings: settings.accounts_url is None,
    ),
    SharedPart(
        "key_source",
        "the key-encryption keys are in a file or a keyring of one host; a second host cannot decrypt with its own",
        "Set HFTHOT_KEY_SOURCE=environment, and HFTHOT_KEYS to the same secret on every host.",
        lambda settings: settings.key_source != "environment",
    ),
    SharedPart(
        "exports",
        "exported personal data is in a folder of one host, where an erasure on another host cannot delete it",
        "Set HFTHOT_EXPORTS to an object-store URL, or unset it: it is then next to the lake.",
        lambda settings: isinstance(settings.exports, Path),
    ),
    SharedPart(
        "certificates",
        "the certificates and the list of erasures are in a folder of one host, which a restore elsewhere does not see",
        "Set HFTHOT_CERTIFICATES to an object-store URL, or unset it: they are then next to the lake.",
        lambda settings: isinstance(settings.certificates, Path),
    ),
    SharedPart(
        "landing",
        "the landing folder is a folder of one host; the sensor and the run that ingests may be on different ones",
        "Set HFTHOT_LANDING to an object-store URL, such as s3://bucket/landing.",
        lambda settings: isinstance(settings.landing, Path),
    ),
    SharedPart(
        "reports",
        "result pages and pictures are in a folder of the host that made them, which the other hosts cannot show",
        "Set HFTHOT_REPORTS to an object-store URL, or unset it: they are then next to the lake.",
        lambda settings: not isinstance(settings.reports, str),
    ),
    SharedPart(
        "feeds",
        "a feed reads an archive from a folder of one host, so that runs on other hosts find another archive or none",
        "Set `location` of this feed to the archive's address, or omit it.",
        lambda settings: any(
            isinstance(feed, ArchiveFeedSettings) and "://" not in feed.location for feed in settings.feeds
        ),
    ),
)


def not_shared(settings: Settings) -> list[SharedPart]:
    """Return what several hosts would have to share and do not; nothing where there is one host."""
    return [part for part in SHARED if part.local(settings)] if settings.hosts > 1 else []


def require_shared(settings: Settings) -> None:
    """Check that several hosts share what they must.

    Raises:
        NotSharedError: they do not; the message has everything that is missing.
    """
    parts = not_shared(settings)
    if parts:
        raise NotSharedError(
            f"with {settings.hosts} hosts, " + "; ".join(f"{part.what} ({part.setting})" for part in parts),
            where="setting 'hosts'",
            hint=" ".join(part.hint for part in parts),
        )
