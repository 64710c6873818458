"""Which adapter reads a file: judged by its content, with the user's declared mapping in front."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from hfthot_platform.errors import RejectedFileError
from hfthot_platform.market.sources.base import FileAdapter, FileProbe, Recognised, probe_file
from hfthot_platform.market.sources.binance_archive import BinanceArchive
from hfthot_platform.market.sources.binance_stream import BinanceStream
from hfthot_platform.market.sources.csv import Csv
from hfthot_platform.market.sources.delimited import file_blocks
from hfthot_platform.market.sources.freqtrade import Columnar, FreqtradeJson
from hfthot_platform.market.sources.mapping import CsvMapping, load_mapping, sidecar_of

__all__ = ["ADAPTERS", "recognise"]

#: Asked in this order: the most particular content first.
ADAPTERS: Final[tuple[FileAdapter, ...]] = (BinanceStream(), BinanceArchive(), FreqtradeJson(), Columnar(), Csv())


def recognise(path: Path, declared: CsvMapping | None = None) -> tuple[FileProbe, Recognised]:
    """Say what a file is, so that `claim.adapter.read(probe, claim, ...)` can read it.

    What its user declares, in the argument or in `<file>.mapping.yaml` beside it, wins over the content.
    Compressed files are read through once, so that a damaged one is refused before any row is published.

    Args:
        path: the file.
        declared: a mapping, whole or in part; instead of the sidecar file.

    Raises:
        RejectedFileError: with the reason `empty`, `truncated`, `several_members`, `unrecognised`,
            `bad_mapping`, `wrong_schema`, `unknown_symbol`, `unknown_venue`, `ambiguous_market`,
            `unknown_interval`, `unsupported_interval`, `interval_mismatch`, `unsupported_content` or
            `unrecognised_time`.
    """
    probe = probe_file(path)
    if declared is None and sidecar_of(path).exists():
        declared = load_mapping(sidecar_of(path))
    if declared is not None:
        probe = replace(probe, declared=declared)
    if probe.container in ("zip", "gzip"):
        for _ in file_blocks(probe):
            pass  # reading checks the container's checksum
    # Whole declared columns leave nothing to recognise.
    adapters = ADAPTERS if probe.declared.columns is None else (Columnar(), Csv())
    for adapter in adapters:
        claim = adapter.recognise(probe)
        if claim is not None:
            return probe, claim
    first = next(iter(probe.lines), "")[:80]
    raise RejectedFileError(
        "unrecognised",
        f"no adapter knows this content ({probe.container}, beginning with {first!r})",
        where=path.name,
        hint=f"Describe it in {sidecar_of(path).name}: venue, symbol, columns, time.",
    )
