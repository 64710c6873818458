"""The words of the platform's own texts: a person's name that is one of them says nothing about anybody.

`Will`, `Case` or `Tables` stand in documentation, code, messages and Dagster's logs whoever has an account.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

import polars as pl

from hfthot_platform.storage.lakehouse import Lakehouse

__all__ = ["is_own_text", "table_with_word", "word_pattern"]

_REPOSITORY: Final = Path(__file__).resolve().parents[3]
_OWN: Final = ("hfthot_platform", "assets", "jobs", "sensors", "resources", "dbt_like_sql", "docs", "deploy")
#: Whose texts come into the platform's folders: run logs, events, result pages.
_LIBRARIES: Final = ("dagster", "dagster_shared", "dagster_webserver", "dagster_duckdb")
_TEXTS: Final = frozenset({".py", ".md", ".sql", ".yaml", ".yml", ".toml"})
_WORD: Final = re.compile(r"\w+")
_PIECE: Final = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])")
#: What programs put into examples and made-up accounts.
_PLACEHOLDERS: Final = ("test", "user", "username", "guest", "none", "null", "true", "false", "unknown", "example")
#: Namespaces of tables in which nobody's data is; their texts are symbols, venues and names of models.
_PUBLIC: Final = frozenset({"market", "signals", "portfolio", "staging", "marts"})


def is_own_text(value: str) -> bool:
    """Whether a name, or several words, stand in the platform's own texts."""
    words = _WORD.findall(value.casefold())
    known = _words()
    if not words or any(word not in known for word in words):
        return False
    if len(words) == 1:
        return True
    phrase = re.compile(r"(?<!\w)" + r"[\W_]{1,3}".join(map(re.escape, words)) + r"(?!\w)", re.IGNORECASE)
    return any(phrase.search(text) for text in _texts())


@lru_cache(maxsize=1)
def _words() -> frozenset[str]:
    found = set(_PLACEHOLDERS)
    for text in _texts():
        whole = set(_WORD.findall(text))
        found |= {word.casefold() for word in whole}
        found |= {piece.casefold() for word in whole for piece in _PIECE.findall(word)}
    return frozenset(found)


def _texts() -> Iterator[str]:
    folders = [_REPOSITORY / name for name in _OWN]
    for name in _LIBRARIES:
        found = importlib.util.find_spec(name)
        folders += [Path(location) for location in (found.submodule_search_locations or ())] if found else []
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in _TEXTS]
    for path in (*files, *_REPOSITORY.glob("*.md")):
        yield path.read_text(encoding="utf-8", errors="replace")


def word_pattern(value: str) -> str:
    """Return the pattern, as Polars takes it, of a value that stands between what is neither letter nor digit."""
    return r"(?i)(?:^|[^\pL\pN])" + re.escape(value) + r"(?:$|[^\pL\pN])"


def table_with_word(lake: Lakehouse, value: str) -> str | None:
    """Return the name of a table without anybody's data that has a value as a word of its texts; None if none has.

    Only what the tables themselves say counts (symbols, venues, models), not where a row came from, which can be the
    name of somebody's file.
    """
    word = word_pattern(value)
    for table in lake.tables():
        contract = table.contract
        if contract.namespace not in _PUBLIC or table.version() is None:
            continue
        columns = [
            column.name
            for column in contract.columns
            if column.polars == pl.String and not column.personal and not column.provenance
        ]
        if not columns:
            continue
        rows = table.scan().select(pl.col(name).str.contains(word).any() for name in columns)
        if any(rows.collect(engine="streaming").row(0)):
            return contract.name
    return None
