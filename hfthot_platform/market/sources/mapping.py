"""The declared mapping of a vendor file: which column is what, in which unit, of which venue and symbol.

A mapping is written by hand, as YAML, beside the file it describes (`trades.csv.gz.mapping.yaml`), or comes
from a preset.  Every field is optional: what is declared wins over what was recognised, what is not
declared is recognised or, failing that, asked for by a typed rejection of the file.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from hfthot_platform.contracts.market import BARS, BARS_1M, INTERVALS, SOURCES, TRADES
from hfthot_platform.documents import load_yaml
from hfthot_platform.errors import DocumentError, RejectedFileError, nearest

__all__ = ["SIDECAR_SUFFIX", "CsvMapping", "load_mapping", "sidecar_of"]

SIDECAR_SUFFIX: Final = ".mapping.yaml"

#: What a source column can be.  `maker_buys` is a flag (true: the buyer was the maker, so the taker sold);
#: `interval` is a bar length such as `5m`; the rest are columns of the contracts.
TARGETS: Final = (
    *("ts", "symbol", "interval", "open", "high", "low", "close", "volume", "quote_volume", "trades", "buy_volume"),
    *("trade_id", "price", "amount", "side", "maker_buys", "ts_received"),
)


def _zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError(f"unknown time zone. {nearest(name, available_timezones())}")
    return name


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("as_of needs a zone, for example 2024-01-02T00:00:00Z")
    return moment.astimezone(UTC)


class CsvMapping(BaseModel):
    """How to read one vendor file.

    `columns` is either the list of targets in file order (null skips a column; the file has no header), or
    a dictionary from target to the header's name of the column.  Targets are those of the contracts
    (`ts`, `price`, `open`, ...) plus `interval` and `maker_buys`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: Literal["market.trades", "market.bars_1m", "market.bars"] | None = None
    venue: Annotated[str, Field(pattern="^[a-z0-9_]+$")] | None = None
    #: Canonical or the vendor's spelling; or give a `symbol` column.
    symbol: str | None = None
    #: Whether plain pairs are perpetual contracts; by default so on venues named `*_usdm` or `*_perp`.
    perpetual: bool | None = None
    columns: tuple[str | None, ...] | dict[str, str] | None = None
    #: Lines before the header, or before the data where there is no header.
    skip_lines: Annotated[int, Field(ge=0)] = 0
    separator: Annotated[str, Field(min_length=1, max_length=1)] = ","
    decimal: Literal[".", ","] = "."
    #: auto (numbers by magnitude, text by trial), s, ms, us, ns, or a strftime format.
    time: str = "auto"
    #: Zone of local times without an offset.
    zone: Annotated[str, AfterValidator(_zone)] = "UTC"
    #: Length of a bar; found from the times where not declared.
    interval: str | None = None
    #: The vendor's words for the taker's side.
    sides: dict[str, Literal["buy", "sell"]] = Field(default_factory=dict)
    source: str = "vendor_history"
    #: When the file was made: bars that close later are not final.
    as_of: Annotated[datetime, AfterValidator(_utc)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> CsvMapping:
        targets = self.columns if isinstance(self.columns, dict) else [each for each in self.columns or () if each]
        for target in targets:
            if target not in TARGETS:
                raise ValueError(f"unknown target column {target!r}. {nearest(target, TARGETS)}")
        if len(set(targets)) != len(list(targets)):
            raise ValueError("a target column is named twice")
        if self.source not in SOURCES:
            raise ValueError(f"source {self.source!r} is not one of {', '.join(SOURCES)}")
        if self.interval is not None and self.interval not in ("1m", *INTERVALS):
            raise ValueError(f"interval {self.interval!r} is not one of 1m, {', '.join(INTERVALS)}")
        if self.decimal == self.separator:
            raise ValueError("decimal and separator are the same character")
        return self

    def over(self, other: CsvMapping) -> CsvMapping:
        """Return `other` with everything that is declared here put over it."""
        return other.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})

    @property
    def is_perpetual(self) -> bool:
        """Return whether a plain pair of this venue is a perpetual contract."""
        if self.perpetual is not None:
            return self.perpetual
        return (self.venue or "").endswith(("_usdm", "_perp"))

    @property
    def contract_name(self) -> str | None:
        """Return the target table as far as it is declared (an interval decides between the bar tables)."""
        if self.table == TRADES.name or self.interval is None:
            return self.table
        return BARS_1M.name if self.interval == "1m" else BARS.name


def sidecar_of(path: Path) -> Path:
    """Return where the declared mapping of a file is looked for."""
    return path.with_name(path.name + SIDECAR_SUFFIX)


def load_mapping(path: Path) -> CsvMapping:
    """Read a mapping from YAML.

    Raises:
        RejectedFileError: `bad_mapping`, with the field at fault.
    """
    hint = "Correct the mapping; its fields are those of CsvMapping."
    try:
        content: Any = load_yaml(path.read_text(encoding="utf-8"), where=path.name)
    except DocumentError as error:
        raise RejectedFileError("bad_mapping", error.what, where=error.where, hint=error.hint or hint) from error
    except UnicodeDecodeError as error:
        raise RejectedFileError("bad_mapping", f"not UTF-8 ({error})", where=path.name, hint=hint) from error
    if not isinstance(content, dict):
        raise RejectedFileError("bad_mapping", "expected a dictionary of fields", where=path.name, hint=hint)
    try:
        return CsvMapping.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise RejectedFileError("bad_mapping", problems, where=path.name, hint=hint) from error
