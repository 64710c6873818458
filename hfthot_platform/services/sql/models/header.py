"""The header of a model file: YAML in the leading comment, validated, with every mistake at its line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from hfthot_platform.core.documents import Node, line_of, parse_yaml
from hfthot_platform.core.errors import DocumentError, nearest
from hfthot_platform.domain.contracts.model import Grain

__all__ = [
    "ColumnHeader",
    "ColumnTest",
    "Freshness",
    "Header",
    "Mistake",
    "ModelFile",
    "ModelTestHeader",
    "Range",
    "Relationship",
    "RowCount",
    "Scalar",
    "read_source",
]

#: Types that a column may declare: those that a table of the lake can hold.
TypeName = Literal["text", "int32", "int64", "float64", "boolean", "date", "timestamp"]
#: A value of a setting, or one of the accepted values.
Scalar = bool | int | float | str

_WITHIN = re.compile(r"(\d+(?:\.\d+)?)\s*(m|h|d)")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_OWNER = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+|(team:)?[A-Za-z][\w-]*")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
#: An entry of a cron string's field: all, one, or a range, and a step of the first or the last.
_CRON_ENTRY = re.compile(r"(?:\*|(?P<one>[a-z]{3}|\d{1,2})(?:-(?P<last>[a-z]{3}|\d{1,2}))?)(?:/(?P<step>\d{1,2}))?")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
#: Lowest and highest value of a cron string's fields, and the names of the values from the lowest on.
_CRON_FIELDS: tuple[tuple[int, int, tuple[str, ...]], ...] = (
    (0, 59, ()),
    (0, 23, ()),
    (1, 31, ()),
    (1, 12, _MONTHS),
    (0, 6, _WEEKDAYS),
)
#: Days that each month has at most.
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True, order=True)
class Mistake:
    """Something wrong in a model file."""

    #: The file, as people name it: from the models' folder on.
    file: str
    line: int
    what: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}. {self.hint}".rstrip()


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Relationship(_Strict):
    """Every value, where present, is a value of another table's column."""

    to: str
    field: str
    #: The model's own column; a test that stands under its column leaves it out.
    column: str | None = None


class Range(_Strict):
    """min <= value <= max, where present."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Range:
        if self.min is None and self.max is None:
            raise ValueError("a range has min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"the range from {self.min:g} to {self.max:g} is empty")
        return self


class RowCount(_Strict):
    """min <= number of rows <= max."""

    min: int = Field(0, ge=0)
    max: int | None = Field(None, ge=0)


class Freshness(_Strict):
    """The newest value of a time or date column is no older than this."""

    column: str
    within: timedelta

    @field_validator("within", mode="before")
    @classmethod
    def _span(cls, value: object) -> object:
        found = _WITHIN.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            raise ValueError(f"{value!r} is not a duration; write 90m, 36h or 2d")
        return timedelta(**{_UNITS[found.group(2)]: float(found.group(1))})


class _OneTest(_Strict):
    """A test is a word (`not_null`) or one word with its arguments (`range: {min: 0}`)."""

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: object) -> object:
        return {value: True} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _exactly_one(self) -> _OneTest:
        if len(self.model_fields_set) != 1:
            raise ValueError("write one test per list item; start each with `- ` on a new line")
        return self

    @property
    def kind(self) -> str:
        """Return the word."""
        return next(iter(self.model_fields_set))


class ColumnTest(_OneTest):
    """A test under a column."""

    not_null: Literal[True] | None = None
    unique: Literal[True] | None = None
    accepted_values: Annotated[tuple[Scalar, ...], Field(min_length=1)] | None = None
    relationships: Relationship | None = None
    range: Range | None = None
    expression: str | None = None


class ModelTestHeader(_OneTest):
    """A test of the rows as a whole, or of several columns."""

    unique: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    expression: str | None = None
    row_count: RowCount | None = None
    freshness: Freshness | None = None
    relationships: Relationship | None = None


class ColumnHeader(_Strict):
    """What the header says of a column."""

    description: str = ""
    unit: str = ""
    type: TypeName | None = None
    #: Whether it is personal data; a column made of personal columns is, unless this says that it is not.
    personal: bool | None = None
    tests: tuple[ColumnTest, ...] = ()


class Header(_Strict):
    """The whole header."""

    description: str = Field(min_length=1)
    owner: str
    materialized: Literal["table", "view", "incremental"]
    unique_key: tuple[str, ...] = ()
    partitioned_by: Grain | None = None
    time_column: str | None = None
    tags: tuple[str, ...] = ()
    schedule: str | None = None
    automation: Literal["follows", "none"] | None = None
    columns: dict[str, ColumnHeader] = Field(default_factory=dict)
    tests: tuple[ModelTestHeader, ...] = ()
    settings: dict[str, Scalar] = Field(default_factory=dict)
    #: Raised when columns are added to a model that is already stored.
    schema_version: int = Field(1, ge=1)

    @field_validator("owner")
    @classmethod
    def _owner(cls, value: str) -> str:
        if not _OWNER.fullmatch(value):
            raise ValueError(f"{value!r} is neither an e-mail address nor a team's name")
        return value

    @field_validator("tags")
    @classmethod
    def _tags(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            if not _WORD.fullmatch(item):
                raise ValueError(f"the tag {item!r} is not one word of letters, digits, '_', '-' and '.'")
        return value

    @field_validator("schedule")
    @classmethod
    def _cron(cls, value: str | None) -> str | None:
        if value is not None and not _is_cron(value):
            raise ValueError(f"{value!r} is not a cron string of five fields; '30 2 * * *' is every day at 02:30 UTC")
        return value

    @model_validator(mode="after")
    def _one_trigger(self) -> Header:
        if self.schedule is not None and self.automation is not None:
            raise ValueError("give a schedule or an automation, not both")
        return self


def _is_cron(text: str) -> bool:
    """Whether a text is a cron string that comes true: one that is not would keep all definitions from loading."""
    fields = text.lower().split()
    if len(fields) != len(_CRON_FIELDS):
        return False
    values = [_cron_values(field, *facts) for field, facts in zip(fields, _CRON_FIELDS, strict=True)]
    if not all(values):
        return False
    days, months = values[2], values[3]
    return min(days) <= max(_LONGEST[month - 1] for month in months)


def _cron_values(field: str, low: int, high: int, names: tuple[str, ...]) -> set[int]:
    """Return the values that a field of a cron string stands for; none if it is malformed."""
    numbers = {name: low + place for place, name in enumerate(names)} | {str(n): n for n in range(low, high + 1)}
    numbers |= {f"0{n}": n for n in range(low, min(high, 9) + 1)}
    values: set[int] = set()
    for entry in field.split(","):
        found = _CRON_ENTRY.fullmatch(entry)
        if found is None:
            return set()
        one, last, step = found["one"], found["last"], found["step"]
        first = low if one is None else numbers.get(one)
        final = high if one is None else numbers.get(last or one)
        is_bad_step = step is not None and (not 0 < int(step) <= high or (one is not None and last is None))
        if first is None or final is None or final < first or is_bad_step:
            return set()
        values.update(range(first, final + 1, int(step or 1)))
    return values


@dataclass(frozen=True)
class ModelFile:
    """A model file, taken apart."""

    layer: str
    name: str
    path: Path
    #: The file, as people name it.
    file: str
    text: str
    header: Header
    #: The statement with empty lines in the header's place, so that every line keeps its number.
    sql: str
    _node: Node
    _offset: int

    @property
    def full_name(self) -> str:
        """Return `layer.name`."""
        return f"{self.layer}.{self.name}"

    def line_of(self, *path: str | int) -> int:
        """Return the line of an entry of the header, such as `("columns", "close")`."""
        return line_of(self._node, path) + self._offset

    def mistake(self, what: str, hint: str = "", *, at: tuple[str | int, ...] = (), line: int | None = None) -> Mistake:
        """Return a mistake at an entry of the header, or at a line of the file."""
        return Mistake(self.file, line or self.line_of(*at), what, hint)


def read_source(path: Path, folder: Path) -> tuple[ModelFile | None, list[Mistake]]:
    """Read a model file and validate its header; None where nothing of it can be used."""
    file = str(Path(folder.name) / path.relative_to(folder))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return None, [Mistake(file, 1, "the file is not UTF-8 text", "Save it as UTF-8.")]
    except OSError as error:
        return None, [Mistake(file, 1, f"the file cannot be read: {error.strerror}", "Correct or remove it.")]
    opening = text.find("/*")
    if opening < 0 or text[:opening].strip():
        return None, [Mistake(file, 1, "the file does not begin with a header", "Begin with /* description: ... */.")]
    closing = text.find("*/", opening)
    if closing < 0:
        return None, [Mistake(file, text.count("\n", 0, opening) + 1, "the header's comment does not end", "Add */.")]
    offset = text.count("\n", 0, opening)
    head = text[opening + 2 : closing]
    node, data, mistakes = _parsed(head, file, offset)
    if node is None:
        return None, mistakes
    try:
        header = Header.model_validate(data)
    except ValidationError as error:
        found = [_translated(detail, node, file, offset) for detail in error.errors(include_url=False)]
        return None, mistakes + found
    body = "\n" * text.count("\n", 0, closing) + text[closing + 2 :]
    source = ModelFile(path.parent.name, path.stem, path, file, text, header, body, node, offset)
    return source, mistakes


def _parsed(head: str, file: str, offset: int) -> tuple[Node | None, object, list[Mistake]]:
    try:
        document = parse_yaml(head, where=file)
    except DocumentError as error:
        return None, None, [Mistake(file, error.line + offset, f"the header is {error.what}", error.hint)]
    if document.node is None or not isinstance(document.data, dict):
        return (
            None,
            None,
            [Mistake(file, offset + 1, "the header is empty or not a mapping", "Write `description: ...`.")],
        )
    repeated = [Mistake(file, line + offset, f"{key!r} occurs twice") for line, key in document.repeated]
    return document.node, document.data, repeated


def _translated(error: ErrorDetails, node: Node, file: str, offset: int) -> Mistake:
    """Say a validation error in the words of whoever writes headers."""
    loc = error["loc"]
    line = line_of(node, loc) + offset
    place = ".".join(str(part) for part in loc if not isinstance(part, int) and "[" not in part)
    last = str(loc[-1]) if loc else ""
    match error["type"]:
        case "extra_forbidden":
            known = _fields_at(loc[:-1])
            hint = nearest(last, known) or f"Known here: {', '.join(known)}."
            if " " in last:
                hint = "Within {...}, put text with a comma in quotes."
            return Mistake(file, line, f"unknown entry {place!r}", hint)
        case "missing":
            return Mistake(file, line, f"the entry {place!r} is missing", "Add it to the header.")
        case "literal_error":
            given = str(error["input"])
            expected = re.findall(r"'([^']+)'", str(error.get("ctx", {}).get("expected", "")))
            hint = nearest(given, expected) or (f"Known: {', '.join(expected)}." if expected else "")
            return Mistake(file, line, f"{place} cannot be {given!r}", hint)
        case "value_error":
            return Mistake(file, line, f"{place}: {error['ctx']['error']}" if place else str(error["ctx"]["error"]))
        case _:
            return Mistake(file, line, f"{place}: {error['msg'][0].lower()}{error['msg'][1:]}")


def _fields_at(loc: tuple[str | int, ...]) -> tuple[str, ...]:
    """Return the entries that a header has at a place."""
    models: dict[str, type[BaseModel]] = {
        "relationships": Relationship,
        "range": Range,
        "row_count": RowCount,
        "freshness": Freshness,
    }
    words = [part for part in loc if isinstance(part, str)]
    match words:
        case []:
            return tuple(Header.model_fields)
        case [*_, last] if last in models:
            return tuple(models[last].model_fields)
        case ["columns", _]:
            return tuple(ColumnHeader.model_fields)
        case ["columns", _, "tests"]:
            return tuple(ColumnTest.model_fields)
        case _:
            return tuple(ModelTestHeader.model_fields)
