"""The declared mapping of a vendor file: which column is what, in which unit, of which venue and symbol.

A mapping is written by hand, as YAML, beside the file it describes (`trades.csv.gz.mapping.yaml`) or once for a
folder (`mapping.yaml`; what a file's own mapping says wins), or comes from a preset.  Every field is optional:
what is declared wins over what was recognised, what is not declared is recognised or, failing that, asked for by
a typed rejection of the file that names the field.  docs/files.md has an example of each.
"""

from __future__ import annotations

import codecs
from datetime import UTC, datetime
from datetime import date as Date  # noqa: N812 - the field `date` would hide it
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from hfthot_platform.core.documents import Node, line_of, parse_yaml
from hfthot_platform.core.errors import DocumentError, RejectedFileError, nearest
from hfthot_platform.core.files import write_whole
from hfthot_platform.core.intervals import canonical_name
from hfthot_platform.domain.contracts.market import BARS, BARS_1M, SOURCES, TRADES

__all__ = [
    "FOLDER_MAPPING",
    "SIDECAR_SUFFIX",
    "CsvMapping",
    "declared_mapping",
    "load_mapping",
    "sidecar_of",
    "write_mapping",
]

SIDECAR_SUFFIX: Final = ".mapping.yaml"
#: The mapping of all files of a folder.
FOLDER_MAPPING: Final = "mapping.yaml"

#: What a source column can be.  `maker_buys` is a flag (true: the buyer was the maker, so the taker sold);
#: `interval` is a bar length such as `5m`; `date` and `time` are joined to `ts`; the rest are columns of the
#: contracts.
TARGETS: Final = (
    *(
        "ts",
        "date",
        "time",
        "symbol",
        "interval",
        "adj_close",
        "open",
        "high",
        "low",
        "close",
        "volume",
        "quote_volume",
        "trades",
        "buy_volume",
    ),
    *("trade_id", "price", "amount", "side", "maker_buys", "ts_received"),
    *("kind", "ratio", "currency"),
)


def _zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError(f"unknown time zone. {nearest(name, available_timezones())}")
    return name


def _encoding(name: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise ValueError("unknown encoding; for example cp1252 or utf-16") from None


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("as_of needs a zone, for example 2024-01-02T00:00:00Z")
    return moment.astimezone(UTC)


class CsvMapping(BaseModel):
    """How to read one vendor file.

    `columns` is either the list of targets in file order (null skips a column; the file has no header), or
    a dictionary from target to the header's name of the column.  Targets are those of the contracts
    (`ts`, `price`, `open`, ...) plus `date`, `time`, `interval` and `maker_buys`; `ts: [day, clock]` names the two
    columns of a time that is written in two.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: (
        Literal["market.trades", "market.bars_1m", "market.bars", "market.closes", "market.corporate_actions"] | None
    ) = None
    venue: Annotated[str, Field(pattern="^[a-z0-9_]+$")] | None = None
    #: Canonical or the vendor's spelling; or give a `symbol` column.
    symbol: str | None = None
    #: Whether plain pairs are perpetual contracts; by default so on venues named `*_usdm` or `*_perp`.
    perpetual: bool | None = None
    columns: tuple[str | None, ...] | dict[str, str] | None = None
    #: Lines before the header, or before the data where there is no header.
    skip_lines: Annotated[int, Field(ge=0)] = 0
    #: Found from the first lines where not declared.
    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    #: Found from the first lines where not declared.
    decimal: Literal[".", ","] | None = None
    #: What groups the digits of large numbers; the other of `.` and `,`, blanks and apostrophes need no declaration.
    thousands: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    #: Lines that begin so are remarks, not rows.
    comment: Annotated[str, Field(min_length=1, max_length=8)] | None = None
    #: UTF-8 and UTF-16 are found; anything else has to be declared, for example cp1252.
    encoding: Annotated[str, AfterValidator(_encoding)] | None = None
    #: Take in a last line without its line feed even if it looks cut off.
    complete: bool = False
    #: auto (numbers by magnitude, text by trial), s, ms, us, ns, excel (serial days), or a strftime format.
    time: str = "auto"
    #: Zone of local times without an offset.
    zone: Annotated[str, AfterValidator(_zone)] | None = None
    #: The day of a file whose rows have a time of day only.
    date: Date | None = None
    #: Whether the time of a bar is that of its opening or of its close.
    stamp: Literal["open", "close"] = "open"
    #: Length of a bar; found from the times where not declared.
    interval: str | None = None
    #: `none`: the file has no volume, and its bars have none.
    volume: Literal["none"] | None = None
    #: The vendor's words for the taker's side.
    sides: dict[str, Literal["buy", "sell"]] = Field(default_factory=dict)
    #: Whether the sign of the amount is the taker's side; found from the first rows where not declared.
    signed: bool | None = None
    #: What amounts and volumes count: the base asset, the quote asset, or contracts.
    amount_unit: Literal["base", "quote", "contracts"] | None = None
    #: What one contract is worth in `contract_unit`.
    contract_size: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    #: quote where a contract is an amount of money (inverse), base where it is an amount of the asset (linear).
    contract_unit: Literal["base", "quote"] | None = None
    #: Of closes: whether they are adjusted for splits and dividends; an `adj_close` column says so by itself.
    adjusted: bool | None = None
    #: Of an archive, the files that are read, by name or pattern (`*_60.csv`); with `!` in front, those that are not.
    members: tuple[str, ...] = ()
    source: str = "vendor_history"
    #: When the file was made: bars that close later are not final.
    as_of: Annotated[datetime, AfterValidator(_utc)] | None = None

    @field_validator("columns", mode="before")
    @classmethod
    def _joined(cls, columns: Any) -> Any:
        """Write `ts: [day, clock]` as the targets `date` and `time`."""
        if isinstance(columns, dict) and isinstance(columns.get("ts"), (list, tuple)):
            if len(columns["ts"]) != 2:
                raise ValueError("ts needs one column, or two: the day and the time of day")
            rest = {target: name for target, name in columns.items() if target != "ts"}
            return {"date": columns["ts"][0], "time": columns["ts"][1], **rest}
        return columns

    @field_validator("members", mode="before")
    @classmethod
    def _listed(cls, members: Any) -> Any:
        return [members] if isinstance(members, str) else members

    @field_validator("interval", mode="before")
    @classmethod
    def _spelled(cls, interval: Any) -> Any:
        return (canonical_name(interval) or str(interval)) if isinstance(interval, (str, int)) else interval

    @model_validator(mode="after")
    def _consistent(self) -> CsvMapping:
        targets = self.columns if isinstance(self.columns, dict) else [name for name in self.columns or () if name]
        for target in targets:
            if target not in TARGETS:
                raise ValueError(f"unknown target column {target!r}. {nearest(target, TARGETS)}")
        if len(set(targets)) != len(list(targets)):
            raise ValueError("a target column is named twice")
        if "ts" in targets and ("date" in targets or "time" in targets):
            raise ValueError("give ts, or date and time, not both")
        if "time" in targets and "date" not in targets and self.date is None:
            raise ValueError("a time of day needs its day: a `date` column, or `date: 2024-01-02` for the whole file")
        if self.source not in SOURCES:
            raise ValueError(f"source {self.source!r} is not one of {', '.join(SOURCES)}")
        if self.interval is not None and canonical_name(self.interval) is None:
            raise ValueError(
                f"interval {self.interval!r}: expected a count and a unit, such as 1m, 5m, 4h, 1d, 1w or 1mo"
            )
        if self.decimal is not None and self.decimal == self.separator:
            raise ValueError("decimal and separator are the same character")
        if self.thousands is not None and self.thousands in (self.decimal or ".", self.separator):
            raise ValueError("thousands is the same character as decimal or separator")
        if self.amount_unit == "contracts" and (self.contract_size is None or self.contract_unit is None):
            raise ValueError("amount_unit: contracts needs contract_size, and contract_unit: base or quote")
        return self

    def over(self, other: CsvMapping) -> CsvMapping:
        """Return `other` with everything that is declared here put over it."""
        return other.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})

    def reads(self, member: str) -> bool:
        """Return whether a file within an archive is read: by its path in the archive, or its own name."""
        names = {member.lower(), member.rpartition("/")[2].lower()}

        def any_of(patterns: list[str]) -> bool:
            return any(fnmatchcase(name, pattern.lower()) for name in names for pattern in patterns)

        wanted = [member for member in self.members if not member.startswith("!")]
        unwanted = [member[1:] for member in self.members if member.startswith("!")]
        return (not wanted or any_of(wanted)) and not any_of(unwanted)

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


def declared_mapping(path: Path) -> CsvMapping | None:
    """Return what is declared of a file: by its own mapping, over the one of its folder; None if nothing is.

    Raises:
        RejectedFileError: `bad_mapping`.
    """
    own, folder = sidecar_of(path), path.with_name(FOLDER_MAPPING)
    mappings = [load_mapping(path) for path in (folder, own) if path.is_file()]
    if not mappings:
        return None
    if len(mappings) == 1:
        return mappings[0]
    try:
        together = mappings[0].model_dump(exclude_unset=True) | mappings[1].model_dump(exclude_unset=True)
        return CsvMapping.model_validate(together)
    except ValidationError as error:
        raise _bad(error, own, hint=f"It takes precedence over {FOLDER_MAPPING} of the folder.") from error


def write_mapping(path: Path, mapping: CsvMapping) -> None:
    """Write what a mapping declares, and nothing that it leaves open; whoever reads the file gets the same."""
    import yaml

    said = mapping.model_dump(mode="json", exclude_unset=True)
    write_whole(path, yaml.safe_dump(said, sort_keys=False, allow_unicode=True))


def load_mapping(path: Path) -> CsvMapping:
    """Read a mapping from YAML.

    Raises:
        RejectedFileError: `bad_mapping`, with the field at fault and its line.
    """
    hint = "Correct the mapping; docs/files.md describes every field."
    try:
        document = parse_yaml(path.read_text(encoding="utf-8-sig"), where=path.name, unique_keys=True)
    except DocumentError as error:
        raise RejectedFileError("bad_mapping", error.what, where=error.where, hint=error.hint or hint) from error
    except (UnicodeDecodeError, OSError) as error:
        raise RejectedFileError("bad_mapping", f"not readable ({error})", where=path.name, hint=hint) from error
    if not isinstance(document.data, dict) or document.node is None:
        raise RejectedFileError("bad_mapping", "expected a dictionary of fields", where=path.name, hint=hint)
    try:
        return CsvMapping.model_validate(document.data)
    except ValidationError as error:
        raise _bad(error, path, hint=hint, node=document.node) from error


def _bad(error: ValidationError, path: Path, *, hint: str, node: Node | None = None) -> RejectedFileError:
    problems = []
    lines = []
    for mistake in error.errors(include_url=False):
        field = str(mistake["loc"][0]) if mistake["loc"] else ""
        message = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            message = f"there is no such field. {nearest(field, CsvMapping.model_fields)}".strip()
        problems.append(f"{field}: {message}" if field else message)
        if node is not None:
            lines.append(line_of(node, tuple(mistake["loc"][:1])) if field else 1)
    where = f"{path.name}:{lines[0]}" if lines else path.name
    return RejectedFileError("bad_mapping", "; ".join(dict.fromkeys(problems)), where=where, hint=hint)
