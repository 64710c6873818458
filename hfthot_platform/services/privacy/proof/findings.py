"""What a scan finds and what it says of the places that it read; the state that its readers share.

A report says where a value is, never which: names of files that hold one are withheld.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hfthot_platform.services.privacy.proof.canary import CANARY_KIND
from hfthot_platform.services.privacy.proof.search import Hit, Needle, Searcher
from hfthot_platform.services.privacy.proof.sqlite_reader import FileOpener

__all__ = ["FoundValue", "PlaceReport", "Progress", "ScanLimits", "ScanReport", "ScanRun"]

#: Told of the bytes read so far.
Progress = Callable[[int, int | None, str], None]


@dataclass(frozen=True)
class ScanLimits:
    """What bounds the work and the memory of a scan; sizes in bytes."""

    #: What is read and searched at once.
    block: int = 8 * 1024 * 1024
    #: A file on a disk that is larger is read in parts of this size, so that one large file keeps every worker busy.
    section: int = 64 * 1024 * 1024
    #: What one file is unpacked to at most, with all that is packed inside it; a bomb must not stop an erasure.
    unpacked: int = 64 * 1024**3
    #: An archive inside an archive is opened when it fits into memory.
    nested: int = 64 * 1024 * 1024
    #: How many containers within each other are opened.
    depth: int = 6
    #: Findings of one value in one form and file that are kept, and findings in all.
    alike: int = 20
    findings: int = 200_000


@dataclass(frozen=True)
class FoundValue:
    """A value that was found, without the value."""

    place: str
    #: Path below the place, or table and column; a name that itself holds a value is withheld.
    file: str
    offset: int
    #: What kind of value it is.
    kind: str
    encoding: str
    #: `bytes`, `name`, or how the value was got at: `parquet`, `gzip`, `zip:<n>`, `sqlite`, `sql`, ...
    inside: str
    #: For whoever has to judge it, and for nobody else: the value, the file's true name, what is around it.
    needle: Needle = field(repr=False, compare=False, default=Needle("", ""))
    path: str = field(repr=False, compare=False, default="")
    context: str = field(repr=False, compare=False, default="")
    #: When the file was last changed (seconds since 1970), where that is known.
    modified: float | None = field(compare=False, default=None)

    def __str__(self) -> str:
        return f"{self.kind} in {self.place}: {self.file} at {self.offset} ({self.encoding}, {self.inside})"


@dataclass(frozen=True)
class PlaceReport:
    """What was read of one place."""

    name: str
    files: int
    bytes: int
    #: Bytes that were decoded from Parquet pages, archives and rows, on top of `bytes`.
    bytes_decoded: int
    #: Files that are or claim to be packed and could not be decoded to their end; their bytes were searched.
    opaque: tuple[str, ...]
    #: Files and folders that could not be read at all.
    unreadable: tuple[str, ...]
    #: The same as `opaque`, with the reason.
    undecoded: tuple[str, ...] = ()
    #: What was left alone on purpose, and why: devices, links around in a circle or to nowhere, folders of others.
    skipped: tuple[str, ...] = ()
    #: Whether the self-test covered it.
    tested: bool = True


@dataclass(frozen=True)
class ScanReport:
    """The outcome of a scan.  It counts only because `canaries` were all found; a scan that missed one raises."""

    places: tuple[PlaceReport, ...]
    findings: tuple[FoundValue, ...]
    #: How many values of each kind were looked for.
    needles: dict[str, int]
    #: (kind, reason) of what could not be looked for.
    left_out: tuple[tuple[str, str], ...]
    #: Number of planted canaries, every one of them found.
    canaries: int
    seconds: float
    #: There were more findings than are listed, so that files may be missing from them.
    truncated: bool = False
    #: Findings by (place, file, kind, encoding, inside), those beyond the listed ones included.
    counts: dict[tuple[str, str, Needle, str, str], int] = field(default_factory=dict, repr=False)

    @property
    def files(self) -> int:
        """Return the number of files and tables."""
        return sum(place.files for place in self.places)

    @property
    def bytes(self) -> int:
        """Return the bytes read."""
        return sum(place.bytes for place in self.places)

    @property
    def bytes_decoded(self) -> int:
        """Return the bytes decoded from compressed or paged forms, on top of the bytes read."""
        return sum(place.bytes_decoded for place in self.places)

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Return the files that could not be read, with their places."""
        return tuple(f"{place.name}: {name}" for place in self.places for name in place.unreadable)

    @property
    def clean(self) -> bool:
        """Whether nothing was found, and nothing kept the scan from looking."""
        return not self.findings and not self.unreadable


class ScanRun:
    """What the readers of one scan share: what is sought, what was found, how far it is.  Safe to use from threads."""

    def __init__(
        self,
        searcher: Searcher,
        opener: FileOpener,
        *,
        limits: ScanLimits,
        progress: Progress | None = None,
        untested: Mapping[str, str],
    ) -> None:
        self.searcher = searcher
        self.opener = opener
        self.limits = limits
        #: Places that no canary could be put into, and why.
        self.untested = untested
        #: Findings by place, file, value, encoding and container, those beyond the listed ones included.
        self.counts: dict[tuple[str, str, Needle, str, str], int] = {}
        self.findings: set[FoundValue] = set()
        #: Where canaries were found: place, file, container and encoding.
        self.canaries: set[tuple[str, str, str, str]] = set()
        #: There were more findings than are kept.
        self.truncated = False
        #: Bytes that are to be read, as far as that is known.
        self.total = 0
        self._done = 0
        self._progress = progress
        self._lock = threading.Lock()

    def count(self, number: int) -> None:
        """Count bytes that were read, and tell of them."""
        with self._lock:
            self._done += number
            if self._progress is not None:
                self._progress(self._done, self.total or None, "bytes")

    def found(
        self,
        place: str,
        file: str,
        inside: str,
        hit: Hit,
        offset: int,
        context: str = "",
        modified: float | None = None,
    ) -> None:
        """Keep a hit, unless enough that are alike are kept already."""
        with self._lock:
            if hit.kind == CANARY_KIND:
                self.canaries.add((place, file, re.split("[:/]", inside)[0], hit.encoding))
                return
            form = place, file, hit.needle, hit.encoding, inside
            alike = self.counts.get(form, 0)
            if alike or len(self.counts) < self.limits.findings:
                self.counts[form] = alike + 1
            if alike < self.limits.alike and len(self.findings) < self.limits.findings:
                shown = self.shown(file)
                self.findings.add(
                    FoundValue(
                        place, shown, offset, hit.kind, hit.encoding, inside, hit.needle, file, context, modified
                    )
                )
            elif not alike:
                self.truncated = True

    def shown(self, file: str) -> str:
        """Return a file's name for reports: parts of it that hold a value are withheld."""
        holds_value = self.searcher.search
        return "/".join(
            "(withheld)" if any(holds_value(os.fsencode(part))) else _printable(part) for part in file.split("/")
        )


def _printable(name: str) -> str:
    """Return a name as text that can be printed and encoded."""
    return os.fsencode(name).decode(errors="backslashreplace")
