"""Locked-down DuckDB databases, and the translation of DuckDB's errors.  The only home of both.

What belongs here: the settings that lock a database down, names and texts as SQL writes them, and the reading of
DuckDB's messages.  What does not: which tables a statement may read, and what is checked of it before it runs.

The process that runs untrusted SQL loads this module, so it imports nothing heavy but DuckDB.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import duckdb

from hfthot_platform.core.errors import (
    HfthotError,
    SqlDeadlineError,
    SqlError,
    SqlMemoryError,
    SqlRefusedError,
    UnknownColumnError,
    nearest,
)

__all__ = [
    "ErrorDetails",
    "error_details",
    "literal",
    "lock_down",
    "new_database",
    "new_restricted_database",
    "out_of_memory",
    "prepare",
    "quoted",
    "redacted_error",
    "sql_error",
    "unknown_column",
]

# -- settings ---------------------------------------------------------------------------------------------------

#: Of every database, whoever opened it.
_EVERY: Final[dict[str, str]] = {
    "TimeZone": "'UTC'",
    "enable_progress_bar": "false",
    # No code but DuckDB's own: neither extensions, nor variables of the calling Python that are named like a table.
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    # What was read is not read again by the same statement: keeping it costs a fifth of the time.
    "enable_external_file_cache": "false",
}
#: Of one that runs untrusted SQL: no thread (its process is forked), nothing on a disk, bounds on a statement.
_RESTRICTED: Final[dict[str, str | bool | int]] = {
    "threads": 1,
    "async_threads": 0,
    "temp_directory": "",
    "max_temp_directory_size": "0B",
    "allow_persistent_secrets": False,
    "max_expression_depth": 250,
    "pivot_limit": 1_000,
    "catalog_error_max_schemas": 0,
}


def new_database(*, threads: int = 1, memory: str | None = None, spill: str | None = None) -> duckdb.DuckDBPyConnection:
    """Return a fresh database in memory, for SQL of this platform; `lock_down` it before it runs.

    Args:
        threads: how many it may use.
        memory: how much it may take, such as `4GB`; most of the machine's by default.
        spill: the folder for what does not fit in memory; None: such a statement fails.

    Raises:
        SqlError: the memory is not written as DuckDB wants it.
    """
    config: dict[str, str | bool | int | float | list[str]] = {"threads": threads, "temp_directory": spill or ""}
    if memory is not None:
        config["memory_limit"] = memory
    try:
        connection = duckdb.connect(config=config)
    except duckdb.Error as error:
        hint = "Write HFTHOT_DUCKDB_MEMORY like 4GB or 500MB."
        raise SqlError(error_details(error).first, where="SQL limits", hint=hint) from None
    prepare(connection)
    return connection


def new_restricted_database() -> duckdb.DuckDBPyConnection:
    """Return a fresh database in memory, without threads: a process that holds one can be forked."""
    connection = duckdb.connect(config=dict(_RESTRICTED))
    prepare(connection)
    return connection


def prepare(connection: duckdb.DuckDBPyConnection) -> None:
    """Give a database that a caller opened the settings that every database here has."""
    connection.execute("; ".join(f"SET {name} = {value}" for name, value in _EVERY.items()))


def lock_down(connection: duckdb.DuckDBPyConnection, paths: Iterable[str] = ()) -> None:
    """Let a database open these files and nothing else; no setting can be changed afterwards."""
    allowed = ", ".join(map(literal, paths))
    connection.execute(
        f"SET allowed_paths = [{allowed}]; SET enable_external_access = false; SET lock_configuration = true"
    )


def quoted(name: str) -> str:
    """Return a name as SQL writes any name: in double quotes."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


# -- errors -----------------------------------------------------------------------------------------------------

_LINE: Final = re.compile(r"^LINE (\d+):", re.MULTILINE)
_TABLE: Final = re.compile(r'Table with name "?([^\s"!]+)"? does not exist')
_COLUMN: Final = re.compile(r'(?:Referenced column|does not have a column named|Column(?: with name)?) "([^"]+)"')
_AMBIGUOUS: Final = re.compile(r"Ambiguous reference to (?:column name|alias) \"?([^\s\"]+)\"?(?: \(use: (.+)\))?")
_FUNCTION: Final = re.compile(r"Function with name \"?([^\s\"]+)\"? does not exist")
_FILE: Final = re.compile(r"[^\s'\"]+\.parquet")
_CANDIDATES: Final = "Candidate functions:"
#: Overloads of a function that an error lists.
_MOST_CANDIDATES: Final = 4
#: What could be a path, or name a file of the platform.
_PLACE: Final = re.compile(r"(?:file:)?(?:/[^\s'\"/,)\]]+){2,}/?|\S+\.parquet\S*")
#: Errors whose text speaks of the statement and its values alone.
_SPOKEN: Final = (
    duckdb.ParserException,
    duckdb.SyntaxException,
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ConversionException,
    duckdb.OutOfRangeException,
    duckdb.InvalidInputException,
    duckdb.InvalidTypeException,
    duckdb.TypeMismatchException,
    duckdb.ConstraintException,
    duckdb.NotImplementedException,
    duckdb.SequenceException,
)
#: The same where a reader of rows raises it as an error of Arrow's.
_SPOKEN_TEXTS: Final = ("Conversion Error", "Out of Range", "Invalid Input Error")


@dataclass(frozen=True)
class ErrorDetails:
    """What an error of DuckDB's says of a statement, in parts; a part that it does not mention is None."""

    #: The whole of it.
    text: str
    #: Its first line, without the last stop.
    first: str
    #: Its second line, unless that quotes the statement; what it could mean where it lists that.
    advice: str
    #: Line of the statement, from 1.
    line: int | None
    #: A table, column or function that is not there, a column that may be one of several, and what it may be.
    table: str | None
    column: str | None
    function: str | None
    ambiguous: str | None
    choices: str | None
    #: A data file at fault.
    file: str | None
    out_of_memory: bool
    interrupted: bool
    #: It wanted what the settings forbid.
    forbidden: bool

    @property
    def syntax_hint(self) -> str:
        """Return what to do about wrong syntax; nothing for other errors."""
        wrong = self.text.startswith("Parser Error")
        return "Correct the syntax there: SQL is one SELECT in DuckDB's dialect." if wrong else ""

    def where(self, sql: str) -> str:
        """Return the place in a statement, for an error: with the line if there are several."""
        return f"SQL, line {self.line}" if self.line is not None and "\n" in sql.strip() else "SQL"


def _advice(lines: Sequence[str]) -> str:
    """Return what DuckDB advises after the first line of its message."""
    following = [line for line in lines[1:] if line]
    if not following or _LINE.match(following[0]):
        return ""
    if following[0] != _CANDIDATES:
        return following[0]
    shown = list(itertools.takewhile(lambda line: not _LINE.match(line), following[1:]))[:_MOST_CANDIDATES]
    return f"{_CANDIDATES} {'; '.join(shown)}."


def error_details(error: Exception) -> ErrorDetails:
    """Return the parts of an error of DuckDB's, also of one that came through Arrow or the system."""
    text = str(error)
    lines = [line.strip() for line in text.strip().splitlines()] or [type(error).__name__]
    line = _LINE.search(text)
    ambiguous = _AMBIGUOUS.search(text)
    binding = text.startswith("Binder Error")

    def named(pattern: re.Pattern[str]) -> str | None:
        found = pattern.search(text)
        return found.group(1) if found else None

    file = _FILE.search(text)
    return ErrorDetails(
        text=text,
        first=lines[0].removesuffix("!").removesuffix(".")[:500],
        advice=_advice(lines),
        line=int(line.group(1)) if line else None,
        table=named(_TABLE),
        column=named(_COLUMN) if binding else None,
        function=named(_FUNCTION),
        ambiguous=ambiguous.group(1) if ambiguous else None,
        choices=ambiguous.group(2) if ambiguous else None,
        file=file.group(0) if file else None,
        out_of_memory=isinstance(error, (MemoryError, duckdb.OutOfMemoryException))
        or "bad_alloc" in text
        or "Out of Memory" in text,
        interrupted=isinstance(error, duckdb.InterruptException) or "INTERRUPT" in text[:20],
        forbidden=isinstance(error, duckdb.PermissionException) or "Permission Error" in text,
    )


def sql_error(error: Exception, sql: str, columns: Collection[str] | None = None) -> SqlError:
    """Return the typed error for one of DuckDB's about a trusted caller's statement: it leaves nothing out.

    Args:
        error: what DuckDB, or Arrow with its words, raised.
        sql: the statement.
        columns: those that it could have named; None where a missing column is not to be looked for.
    """
    said = error_details(error)
    where = said.where(sql)
    if said.out_of_memory:
        return SqlError(
            said.first,
            where=where,
            hint="Select less data, raise HFTHOT_DUCKDB_MEMORY, or give HFTHOT_SCRATCH more free disk space.",
        )
    if said.column is not None and columns is not None:
        return unknown_column(said.column, columns, where)
    return SqlError(said.first, where=where, hint=said.advice or said.syntax_hint)


def redacted_error(error: Exception, sql: str, columns: Collection[str]) -> HfthotError:
    """Return the error that an untrusted caller may see: nothing of files, settings or the inside of the engine."""
    said = error_details(error)
    where = said.where(sql)
    if said.out_of_memory:
        return out_of_memory()
    if said.interrupted:
        return SqlDeadlineError("the statement took too long", where="SQL", hint="Read less data in one statement.")
    if isinstance(error, duckdb.PermissionException):
        return SqlRefusedError("the statement does something that is not allowed", where=where)
    if said.column is not None:
        name = said.column[:100]
        hint = nearest(name, columns) or "DESCRIBE lists the columns of a table."
        return UnknownColumnError(f"unknown column {name!r}", where=where, hint=hint)
    if isinstance(error, _SPOKEN) or said.text.startswith(_SPOKEN_TEXTS):
        first = said.text.strip().splitlines()[0].split("Did you mean")[0].split("Candidate")[0]
        return SqlError(_PLACE.sub("...", first).strip().rstrip("!.")[:500], where=where, hint=said.syntax_hint)
    return SqlError(
        "the statement failed inside DuckDB", where="SQL", hint="Rewrite the statement, or split it into smaller steps."
    )


def out_of_memory() -> SqlMemoryError:
    """Return the error for an untrusted statement that needs too much memory."""
    return SqlMemoryError(
        "the statement exceeds its memory limit",
        where="SQL",
        hint="Filter or aggregate earlier, or ask for fewer rows and columns.",
    )


def unknown_column(name: str, columns: Collection[str], where: str) -> UnknownColumnError:
    """Return the error for a column that is not there, with the nearest one that is."""
    hint = nearest(name, columns) or f"Columns: {', '.join(columns)}."
    return UnknownColumnError(f"unknown column {name!r}", where=where, hint=hint)
