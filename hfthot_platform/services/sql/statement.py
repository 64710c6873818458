"""Which tables, at which version, a statement names: read from its tokens, before anything parses or runs it.

`FROM market.ohlcv VERSION AS OF 5` and `FROM market.ohlcv TIMESTAMP AS OF '2026-01-15 14:00'` are taken out, and
the name becomes that of a view of its own, `"market@5"."ohlcv"`, so that several versions of one table can stand in
one statement.  The view keeps the table's name, so `ohlcv.close` and `market.ohlcv.close` mean what they did.

The tokens are DuckDB's own, so strings, comments and quoting are seen as the engine will see them.  Nothing here
decides what a statement may do: a name that is overlooked is simply not there when it runs.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import duckdb

from hfthot_platform.core.duckdb import quoted
from hfthot_platform.core.errors import SqlError, UnknownTableError, nearest
from hfthot_platform.core.time import utc_from_iso

__all__ = [
    "DISCOVERY",
    "Node",
    "Reference",
    "Statement",
    "Token",
    "parse",
    "tokens_of",
    "tree_of",
    "view_of",
    "without_end",
]

#: A node of the tree that DuckDB makes of a statement.
Node = dict[str, Any]
#: Relations that tell of the others; they have no versions.
DISCOVERY: tuple[str, ...] = ("hfthot.columns", "hfthot.tables", "hfthot.versions")


@dataclass(frozen=True)
class Reference:
    """One table or view as a statement names it."""

    #: Its name in the lake, such as `market.ohlcv` or `users`.
    name: str
    #: What stands for it in the rewritten text, quoted, such as `"market@5"."ohlcv"`: create a view of that name.
    view: str
    version: int | None = None
    as_of: datetime | None = None

    @property
    def schema(self) -> str | None:
        """Return the DuckDB schema of the view, without quotes, or None for the default one."""
        return _schema(self.name, self.version, self.as_of)


@dataclass(frozen=True)
class Statement:
    """A statement in DuckDB's dialect, and the tables and views that it names, in order and each once."""

    sql: str
    references: tuple[Reference, ...]


@dataclass(frozen=True)
class Token:
    """A piece of a statement; positions count bytes of its UTF-8 text."""

    text: str
    start: int
    end: int
    line: int
    kind: str

    @property
    def quoted(self) -> bool:
        """Whether it is a name in double quotes."""
        return self.text.startswith('"')

    @property
    def name(self) -> str | None:
        """Return the name that it can be, in lower case as DuckDB compares names, or None."""
        if self.kind not in {"identifier", "keyword"}:
            return None
        return _lower(self.text[1:-1].replace('""', '"') if self.quoted else self.text)

    @property
    def word(self) -> str:
        """Return it as a keyword in upper case, empty if it cannot be one."""
        return "" if self.quoted or self.name is None else self.text.upper()


def parse(sql: str, known: Collection[str], *, as_of: datetime | None = None) -> Statement:
    """Find the known tables and views in a statement and resolve its time travel to views of their own.

    Args:
        sql: any text; it need not be a valid statement.
        known: names in lower case: `namespace.table`, or `table` alone.  Where it has `hfthot.tables`, SHOW TABLES
            reads that.
        as_of: reads what names neither version nor time as it was at this time.

    Raises:
        SqlError: a version or time after AS OF is malformed; the message says where.
        UnknownTableError: a version is asked of a name that is not known; the message suggests the nearest one.
    """
    text, tokens = tokens_of(sql)
    tokens = [token for token in tokens if token.kind != "comment"]
    if (shown := _show_tables(tokens, known)) is not None:
        return Statement(shown, (Reference("hfthot.tables", view_of("hfthot.tables")),))
    scan = _Scan(tokens, known, as_of)
    scan.run()
    return Statement(_edited(text, scan.edits), tuple(dict.fromkeys(scan.found)))


def without_end(sql: str) -> str:
    """Return a statement without the semicolons at its end, so that it can stand in brackets."""
    text, tokens = tokens_of(sql)
    plain = [token for token in tokens if token.kind != "comment"]
    edits = []
    while plain and (last := plain.pop()).text == ";":
        edits.append((last.start, last.end, ""))
    return _edited(text, edits)


def tree_of(connection: duckdb.DuckDBPyConnection, sql: str) -> Node | None:
    """Return DuckDB's tree of a SELECT; None for other statements and for what is too deep to look at.

    Args:
        connection: the statement's own database, before it is locked.
        sql: the statement.
    """
    query = "SELECT json_serialize_sql(?, skip_null := true, skip_empty := true, skip_default := true)"
    try:
        tree = json.loads(connection.execute(query, [sql]).fetchall()[0][0])
    except (duckdb.Error, RecursionError):
        return None
    if not isinstance(tree, dict) or tree.get("error") or len(tree.get("statements", ())) != 1:
        return None
    return tree


def view_of(name: str, version: int | None = None, as_of: datetime | None = None) -> str:
    """Return the quoted name of the view that stands for a table at a version, at a time, or as it is."""
    schema = _schema(name, version, as_of)
    parts = [name.rpartition(".")[2]] if schema is None else [schema, name.rpartition(".")[2]]
    return ".".join(map(quoted, parts))


def tokens_of(sql: str) -> tuple[bytes, list[Token]]:
    """Return a statement's text and tokens.  Unicode's spaces become plain ones, as DuckDB itself has it.

    Raises:
        SqlError: the text is not Unicode.
    """
    try:
        text = sql.encode()
    except UnicodeEncodeError as error:
        raise SqlError(f"the text is not Unicode at position {error.start}", where="SQL") from None
    tokens = list(_tokens(text))
    odd = [token for token in tokens if token.kind not in {"string_const", "comment"} and not token.quoted]
    edits = [(token.start, token.end, _SPACES.sub(" ", token.text)) for token in odd if _SPACES.search(token.text)]
    if not edits:
        return text, tokens
    text = _edited(text, edits).encode()
    return text, list(_tokens(text))


# -- the tokens -------------------------------------------------------------------------------------------------

#: What DuckDB's parser takes for a space outside of quotes.
_SPACES = re.compile("[\u00a0\u2000-\u200b\u202f\u205f\u2060\u3000\ufeff]")
_UPPER = re.compile("[A-Z]")


def _lower(text: str) -> str:
    # Of ASCII letters alone, as DuckDB does: `str.lower` would turn the Kelvin sign into a k.
    return _UPPER.sub(lambda found: found.group().lower(), text)


def _tokens(text: bytes) -> Iterator[Token]:
    found = duckdb.tokenize(text.decode())
    ends = [start for start, _ in found[1:]] + [len(text)] * bool(found)
    line, counted = 1, 0
    for (start, kind), end in zip(found, ends, strict=True):
        line += text.count(b"\n", counted, start)
        counted = start
        piece = text[start:end].rstrip(b" \t\r\n\f\v")
        yield Token(piece.decode(), start, start + len(piece), line, kind.name)


def _edited(text: bytes, edits: list[tuple[int, int, str]]) -> str:
    parts, at = [], 0
    for start, end, new in sorted(edits):
        # The lines stay what they were, so that errors name the right one.
        lines = text.count(b"\n", start, end) - new.count("\n")
        parts += [text[at:start], new.encode(), b"\n" * lines]
        at = end
    return b"".join([*parts, text[at:]]).decode()


def _schema(name: str, version: int | None, as_of: datetime | None) -> str | None:
    namespace = name.rpartition(".")[0]
    if version is not None:
        return f"{namespace}@{version}"
    if as_of is not None:
        return f"{namespace}@{as_of.astimezone(UTC).isoformat()}"
    return namespace or None


def _show_tables(tokens: list[Token], known: Collection[str]) -> str | None:
    words = [token.word or token.text for token in tokens if token.text != ";"]
    if "hfthot.tables" not in known or words[:1] != ["SHOW"]:
        return None
    everything = 'SELECT * FROM "hfthot"."tables"'
    if words[1:] in (["TABLES"], ["ALL", "TABLES"]):
        return everything + " ORDER BY ALL"
    if words[1:3] == ["TABLES", "FROM"] and len(words) == 4 and (namespace := tokens[3].name):
        prefix = namespace.replace("'", "''") + "."
        return f"{everything} WHERE starts_with(table_name, '{prefix}') ORDER BY ALL"
    return None


# -- where tables stand -------------------------------------------------------------------------------------------

#: Words that may come before the query proper.
_BEFORE = {"EXPLAIN", "ANALYZE", "ALL", "BY", "NAME", "DISTINCT"}
#: Words after which a table comes, at the beginning of a query.
_ASK = {"DESC", "DESCRIBE", "PIVOT", "PIVOT_LONGER", "PIVOT_WIDER", "SHOW", "SUMMARIZE", "TABLE", "UNPIVOT"}
_END_OF_FROM = {"WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "OFFSET", "QUALIFY", "WINDOW"}
_SET_OPERATION = {"UNION", "INTERSECT", "EXCEPT"}


@dataclass
class _Frame:
    """What is known of the text since an opening bracket."""

    #: "" before a query begins, then "with", "from", "on" (a join's condition) or "other".
    clause: str = ""
    #: Whether a table comes next.
    expect: bool = False
    #: Whether nothing of a query has been seen yet.
    fresh: bool = True
    #: Whether a SELECT or a leading FROM was seen: otherwise FROM belongs to EXTRACT and its like.
    query: bool = False
    ctes: list[str] = field(default_factory=list)


class _Scan:
    """One walk over the tokens, which knows at each where in which query it is."""

    def __init__(self, tokens: list[Token], known: Collection[str], as_of: datetime | None) -> None:
        self.tokens = tokens
        self.known = frozenset(known)
        self.as_of = as_of
        self.found: list[Reference] = []
        self.edits: list[tuple[int, int, str]] = []
        self._frames = [_Frame()]
        #: How many common table expressions of a name are in sight.
        self._ctes: Counter[str] = Counter()
        #: First parts of `namespace.table.column`, with the table that they mean.
        self._qualified: list[tuple[int, str]] = []

    def run(self) -> None:
        at = 0
        while at < len(self.tokens):
            at = self._step(at)
        # A column of a table that is read at one version only is a column of that version.
        for position, name in self._qualified:
            of = {origin for origin in self.found if origin.name == name}
            if len(of) == 1 and (schema := next(iter(of)).schema) != name.rpartition(".")[0]:
                token = self.tokens[position]
                self.edits.append((token.start, token.end, f'"{schema}"'))

    def _step(self, at: int) -> int:
        """Look at one token, or at the name that begins there; return where to go on."""
        token, frame = self.tokens[at], self._frames[-1]
        if token.text in {"(", "[", "{"}:
            self._open(frame, nested=token.text == "(" and frame.expect)
            return at + 1
        if token.text in {")", "]", "}"}:
            if len(self._frames) > 1:
                self._ctes.subtract(self._frames.pop().ctes)
            return at + 1
        if token.text == ",":
            if frame.clause in {"from", "on"}:
                frame.clause, frame.expect = "from", True
            elif frame.clause == "with":
                return self._cte(at + 1)
            return at + 1
        if self._keyword(at, frame):
            if token.word == "WITH" and frame.clause == "with":
                return self._cte(at + 1)
            return at + 1
        frame.fresh = False
        if token.name is None:
            frame.expect = False
            return at + 1
        return self._name(at, frame)

    def _open(self, frame: _Frame, *, nested: bool) -> None:
        frame.expect = False
        # In the place of a table, brackets hold a query or a join.
        self._frames.append(_Frame("from", expect=True) if nested else _Frame())

    def _keyword(self, at: int, frame: _Frame) -> bool:
        """Take note of a word that structures a query; False if it is not one here."""
        word = self.tokens[at].word
        if not word or self._text(at - 1) == ".":
            return False
        if word in {"SELECT", "VALUES"}:
            frame.clause, frame.expect, frame.query, frame.fresh = "other", False, True, False
        elif word == "FROM" and (frame.fresh or frame.query or frame.clause == "with" or len(self._frames) == 1):
            if self._word(at - 1) != "DISTINCT":
                frame.clause, frame.expect, frame.query, frame.fresh = "from", True, True, False
        elif word == "JOIN" and frame.clause in {"from", "on"}:
            frame.clause, frame.expect = "from", True
        elif word == "LATERAL" and frame.expect:
            pass
        elif word == "ON" and frame.clause == "from":
            frame.clause, frame.expect = "on", False
        elif word in _END_OF_FROM and frame.clause in {"from", "on"}:
            frame.clause, frame.expect = "other", False
        elif word in _SET_OPERATION and frame.clause not in {"", "with"}:
            frame.clause, frame.expect, frame.fresh = "", False, True
        elif word == "WITH" and frame.fresh:
            frame.clause, frame.expect, frame.fresh = "with", False, False
        elif word in _ASK and (frame.fresh or frame.clause == "with"):
            frame.clause, frame.expect, frame.query, frame.fresh = "other", True, True, False
        else:
            return frame.fresh and not frame.expect and word in _BEFORE
        return True

    def _cte(self, at: int) -> int:
        """Take note of the name of a common table expression, which hides a table of that name."""
        if self._word(at) == "RECURSIVE":
            at += 1
        if at < len(self.tokens) and (name := self.tokens[at].name) is not None:
            self._frames[-1].ctes.append(name)
            self._ctes[name] += 1
            return at + 1
        return at

    def _name(self, at: int, frame: _Frame) -> int:
        if frame.expect and self._text(at + 1) == ":":
            return at + 2  # an alias before the table
        parts, end = [self.tokens[at].name or ""], at + 1
        while self._text(end) == "." and end + 1 < len(self.tokens):
            name = self.tokens[end + 1].name
            if name is None:
                break
            parts.append(name)
            end += 2
        # A dot inside of quotes is part of a name, and no table has one.
        name = ".".join(part.replace(".", '"."') for part in parts)
        called = self._text(end) == "("
        if (asked := self._version(end, name)) is not None:
            version, as_of, end_of_clause = asked
            self._refer(at, end_of_clause, Reference(name, view_of(name, version, as_of), version, as_of))
            end = end_of_clause
        elif name in self.known and not called and (len(parts) > 1 or (frame.expect and not self._ctes[name])):
            # A name in two parts is a table wherever it stands; macros such as histogram take tables as arguments.
            at_time = None if name in DISCOVERY else self.as_of
            self._refer(at, end, Reference(name, view_of(name, None, at_time), None, at_time))
        elif len(parts) > 2 and (table := ".".join(parts[:2])) in self.known:
            self._qualified.append((at, table))
        frame.expect = False
        return end

    def _refer(self, at: int, end: int, reference: Reference) -> None:
        self.found.append(reference)
        if reference.version is not None or reference.as_of is not None:
            self.edits.append((self.tokens[at].start, self.tokens[end - 1].end, reference.view))

    def _version(self, at: int, name: str) -> tuple[int | None, datetime | None, int] | None:
        """Return the version or time that is asked for after a name, and where the text goes on."""
        kind = self._word(at)
        if kind not in {"VERSION", "TIMESTAMP"} or (self._word(at + 1), self._word(at + 2)) != ("AS", "OF"):
            return None
        line = self.tokens[at].line
        where = f"SQL, line {line}" if line > 1 else "SQL"
        value = self._text(at + 3)
        if name in DISCOVERY:
            raise SqlError(f"{name} has no versions", where=where, hint=f"Leave out {kind} AS OF.")
        if name not in self.known:
            name = name[:100]
            hint = nearest(name, self.known) or "Only a table has versions; give a subquery's tables theirs inside it."
            raise UnknownTableError(f"unknown table {name!r}", where=where, hint=hint)
        if kind == "VERSION":
            if not re.fullmatch(r"[0-9]{1,18}", value):
                raise SqlError(
                    f"{value[:60] or 'nothing'} is not a version", where=where, hint=f"Write {name} VERSION AS OF 5."
                )
            return int(value), None, at + 4
        return None, _time(value, name, where), at + 4

    def _text(self, at: int) -> str:
        return self.tokens[at].text if 0 <= at < len(self.tokens) else ""

    def _word(self, at: int) -> str:
        return self.tokens[at].word if 0 <= at < len(self.tokens) else ""


def _time(value: str, name: str, where: str) -> datetime:
    hint = f"Write {name} TIMESTAMP AS OF '2026-01-15 14:00' (UTC, or with an offset such as +02:00)."
    try:
        if not (value.startswith("'") and value.endswith("'")):
            raise ValueError
        return utc_from_iso(value[1:-1].strip())
    except ValueError:
        raise SqlError(f"{value[:60] or 'nothing'} is not a time", where=where, hint=hint) from None
