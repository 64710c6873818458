"""What calls of the client return where a frame or a path alone would be less than callers need.

Each is the plain object that it extends, and can be used wherever that can; beside it, it reads like the records of a
web API: rows have a length, an audit log is a list of entries, an export is a document.
"""

from __future__ import annotations

import json
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from datetime import UTC
from pathlib import Path
from typing import Any, Final, Self, cast

import polars as pl

from hfthot_platform.core.errors import PrivacyError

__all__ = ["AuditLog", "Rows", "UserExport"]


class Rows(pl.LazyFrame):
    """Rows of a table's version: a `polars.LazyFrame` that also knows how many there are (`len`)."""

    @classmethod
    def of(cls, frame: pl.LazyFrame) -> Self:
        """Return a frame as this class; nothing is read."""
        # The library makes its own results this way, and keeps the class of what they were made from.
        return cast("Self", cls._from_pyldf(frame._ldf))  # noqa: SLF001

    def __len__(self) -> int:
        """Count the rows, reading no column."""
        return int(self.select(pl.len()).collect().item())


class AuditLog(pl.DataFrame):
    """Entries of the audit log: a `polars.DataFrame` that iterates over its entries.

    Each entry is a dictionary of the columns, with `timestamp` (ISO 8601), `success`, and `detail` as an object.
    """

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Self:
        """Return a frame as this class."""
        return cast("Self", cls._from_pydf(frame._df))  # noqa: SLF001

    def __iter__(self) -> Iterator[Any]:
        for row in self.iter_rows(named=True):
            entry = dict(row)
            if (ts := entry.get("ts")) is not None:
                entry["timestamp"] = ts.astimezone(UTC).isoformat().replace("+00:00", "Z")
            if "outcome" in entry:
                entry["success"] = entry["outcome"] == "success"
            if isinstance(entry.get("detail"), str):
                entry["detail"] = json.loads(entry["detail"])
            yield entry


#: What of an export stands under which name of the document: the section, and whether it is one row.
_SECTIONS: Final[dict[str, tuple[str, bool]]] = {
    "user": ("profile", True),
    "sessions": ("store_sessions", False),
    "api_keys": ("api_keys", False),
    "audit_log": ("audit_log", False),
}


class UserExport(dict[str, Any]):
    """Everything that is held about a person: the file's path, and what is in it.

    `user`, `sessions`, `api_keys` and `audit_log` are what the person usually asks for, `tables` is everything by
    section, `manifest` says what each is.  It is read from the file when it is first asked for, so it can be dumped as
    JSON; of an archive (`csv`, `parquet`) there is only the manifest.  `path` is the file, and the object itself can be
    opened like a path; of a file on an object store it is the URL, and `content()` is what can be handed on.
    """

    def __init__(self, path: Path | str, read: Callable[[str], bytes] | None = None) -> None:
        super().__init__()
        self.path = path
        self._read = False
        self._fetch = read

    def content(self, name: str | None = None) -> bytes:
        """Return the file, or `manifest.json` beside it."""
        if isinstance(self.path, Path):
            return (self.path if name is None else self.path.with_name(name)).read_bytes()
        if self._fetch is None:
            raise PrivacyError("this export was read in another process", where="export", hint="Ask for it there.")
        return self._fetch(name or self.path.rpartition("/")[2])

    def _document(self) -> dict[str, Any]:
        if not self._read:
            if str(self.path).endswith(".json"):
                document = json.loads(self.content())
                tables = document["tables"]
                for name, (section, single) in _SECTIONS.items():
                    rows = tables.get(section, [])
                    super().__setitem__(name, (rows[0] if rows else {}) if single else rows)
                super().update(document)
            else:
                super().update(manifest=json.loads(self.content("manifest.json")))
            self._read = True
        return cast("dict[str, Any]", super())

    def __getitem__(self, name: str) -> Any:
        return self._document().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        return self._document().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        return self._document().__iter__()

    def __len__(self) -> int:
        return self._document().__len__()

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        return self._document().keys()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        return self._document().values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        return self._document().items()

    def get(self, name: str, default: Any = None) -> Any:
        return self._document().get(name, default)

    def __fspath__(self) -> str:
        return str(self.path)

    def __getattr__(self, name: str) -> Any:
        # Whatever else is asked for is asked of the path: name, parent, suffix, read_bytes ...
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.path, name)

    def __reduce__(self) -> tuple[type[UserExport], tuple[Path | str]]:
        return UserExport, (self.path,)

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"UserExport({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self.path)
