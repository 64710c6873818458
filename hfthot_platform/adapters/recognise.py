"""Which adapter reads a file: judged by its content, with the user's declared mapping in front."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from hfthot_platform.adapters.binance.archive import BinanceArchive
from hfthot_platform.adapters.binance.recording import BinanceStream
from hfthot_platform.adapters.files.actions import ActionsText
from hfthot_platform.adapters.files.adapter import (
    FileAdapter,
    FileProbe,
    Recognised,
    in_encoding,
    probe_file,
    probe_members,
)
from hfthot_platform.adapters.files.closes import ClosesText
from hfthot_platform.adapters.files.columnar import Columnar
from hfthot_platform.adapters.files.columns import refuse_by_name
from hfthot_platform.adapters.files.containers import kind_of
from hfthot_platform.adapters.files.csv import Csv
from hfthot_platform.adapters.files.delimited import file_blocks, is_table_of_numbers
from hfthot_platform.adapters.files.json import Json
from hfthot_platform.adapters.files.mapping import CsvMapping, declared_mapping, sidecar_of
from hfthot_platform.core.errors import RejectedFileError

__all__ = ["ADAPTERS", "Member", "recognise", "recognise_members"]

#: Asked in this order: the most particular content first.
ADAPTERS: Final[tuple[FileAdapter, ...]] = (
    *(BinanceStream(), BinanceArchive(), ActionsText(), ClosesText()),
    *(Json(), Columnar(), Csv()),
)


@dataclass(frozen=True)
class Member:
    """One payload of a file: what it is, or why it is refused.  `name` is empty where the file is the payload."""

    name: str
    probe: FileProbe
    claim: Recognised | None = None
    error: RejectedFileError | None = None


def recognise(
    path: Path, declared: CsvMapping | None = None, *, now: datetime | None = None
) -> tuple[FileProbe, Recognised]:
    """Say what a file is, so that `claim.adapter.read(probe, claim, ...)` can read it.

    What its user declares, in the argument, in `<file>.mapping.yaml` beside it or in `mapping.yaml` of its folder,
    wins over the content.  Compressed files are read through once, so that a damaged one is refused before any row
    is published.

    Args:
        path: the file.
        declared: a mapping, whole or in part; instead of the mapping files.
        now: the time of reading; rows after it are set aside as `time_ahead`.

    Raises:
        RejectedFileError: with the reason `empty`, `truncated`, `several_members`, `unsupported_container`,
            `decompression_bomb`, `unrecognised`, `bad_mapping`, `wrong_schema`, `unknown_symbol`, `unknown_venue`,
            `ambiguous_market`, `unknown_interval`, `unsupported_interval`, `interval_mismatch`,
            `unsupported_content`, `unknown_amount_unit`, `unrecognised_time`, `ambiguous_date`, `serial_dates`,
            `ambiguous_number`, `malformed_json` or `too_large`.
    """
    probe = probe_file(path)
    if declared is None:
        declared = declared_mapping(path)
    return _recognised(probe, declared, now)


def recognise_members(
    path: Path, declared: CsvMapping | None = None, *, now: datetime | None = None
) -> Iterator[Member]:
    """Say what each payload of a file is: of a zip with several files, each on its own, in order of name.

    Args:
        path: the file.
        declared: as in `recognise`; for all members.
        now: as in `recognise`.

    Raises:
        RejectedFileError: the file as a whole cannot be read (its container, or its mapping).
    """
    if declared is None:
        declared = declared_mapping(path)
    for probe in probe_members(path):
        if declared is not None and probe.member and not declared.reads(probe.member):
            error = RejectedFileError("left_out", "`members` in the mapping leaves it out", where=probe.member)
            yield Member(probe.member, probe, error=error)
            continue
        try:
            probe, claim = _recognised(probe, declared, now)  # noqa: PLW2901
        except RejectedFileError as error:
            yield Member(probe.member, probe, error=error)
        else:
            # The first bytes of ten thousand files are half a gigabyte, and reading needs none of them.
            yield Member(probe.member, replace(probe, head=b"") if probe.member else probe, claim)


def _recognised(probe: FileProbe, declared: CsvMapping | None, now: datetime | None) -> tuple[FileProbe, Recognised]:
    probe = replace(probe, declared=declared or probe.declared, now=now)
    if probe.container == "unread":
        kind_of(probe.head, probe.inner_name)
    if probe.is_text:
        if probe.declared.encoding is not None:
            probe = in_encoding(probe, probe.declared.encoding)
        if not probe.head.removeprefix(b"\xef\xbb\xbf").strip():
            raise RejectedFileError("empty", "the file is empty", where=probe.name, hint="Copy it again.")
    if probe.route:
        for _ in file_blocks(probe):
            pass  # reading checks the container's checksum
    # Whole declared columns leave nothing to recognise.
    adapters = ADAPTERS if probe.declared.columns is None else (ActionsText(), ClosesText(), Columnar(), Json(), Csv())
    for adapter in adapters:
        claim = adapter.recognise(probe)
        if claim is not None:
            return probe, claim
    refuse_by_name(probe)
    beside = sidecar_of(probe.path).name
    if is_table_of_numbers(probe):
        raise RejectedFileError(
            "wrong_schema",
            "the file is a table of numbers in an unknown format",
            where=probe.name,
            hint=f"Declare `columns` (which column is what), `venue` and `symbol` in {beside}; of daily closes, "
            "`table: market.closes`.",
        )
    first = next(iter(probe.lines), "")[:80]
    raise RejectedFileError(
        "unrecognised",
        f"no adapter recognises this content ({probe.container}, starting with {first!r})",
        where=probe.name,
        hint=f"Describe it in {beside}: venue, symbol, columns, separator, time.",
    )
