"""What a loaded model is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Literal

from hfthot_platform.core.errors import SqlModelsError, UnknownTableError, nearest
from hfthot_platform.domain.contracts import Column, TableContract
from hfthot_platform.domain.contracts.ops import quarantine_of
from hfthot_platform.domain.contracts.views import SqlView
from hfthot_platform.services.sql.models.checks import ModelTest
from hfthot_platform.services.sql.models.header import Header, Mistake

__all__ = ["DisabledModel", "Models", "SqlModel"]


@dataclass(frozen=True)
class SqlModel:
    """A model whose file is sound."""

    #: `layer.name`, the name of its table or view.
    name: str
    path: Path
    #: The file, as people name it.
    file: str
    header: Header
    #: The SELECT as it runs: the file's statement with every column in the type that the lake stores.
    sql: str
    #: Parameters that the statement names.
    parameters: frozenset[str]
    columns: tuple[Column, ...]
    #: Tables, views and models that the statement names.
    depends_on: tuple[str, ...]
    #: Columns of tables, views and models that each column is made of.
    lineage: Mapping[str, tuple[tuple[str, str], ...]]
    tests: tuple[ModelTest, ...]
    #: None for a view.
    contract: TableContract | None = None
    view: SqlView | None = None

    @property
    def layer(self) -> str:
        """Return the folder's name."""
        return self.name.split(".")[0]

    @property
    def materialized(self) -> Literal["table", "view", "incremental"]:
        """Return how it is kept."""
        return self.header.materialized

    @property
    def published_columns(self) -> tuple[Column, ...]:
        """Return the columns as readers see them: those of the statement and, if there is one, the partition's."""
        return self.columns if self.contract is None else self.contract.columns

    @property
    def description(self) -> str:
        """Return what it holds."""
        return self.header.description

    def values(self, days: tuple[date, date] | None = None) -> dict[str, object]:
        """Return the values of its parameters for a run over some days, from the first to before the second."""
        known: dict[str, object] = dict(self.header.settings)
        if days is not None:
            known |= {"partition_start": days[0], "partition_end": days[1]}
        return {name: value for name, value in known.items() if name in self.parameters}


@dataclass(frozen=True)
class DisabledModel:
    """A model that nobody can use until its file, or one that it reads, is corrected."""

    #: `layer.name`, as for a sound one.
    name: str
    file: str
    #: What is wrong with its own file or, where that is sound, which model it reads that is disabled.
    reasons: tuple[str, ...]
    #: None where the header could not be read.
    header: Header | None = None
    #: Tables, views and models that it reads, as far as its statement could be read.
    depends_on: tuple[str, ...] = ()

    @property
    def layer(self) -> str:
        """Return the folder's name."""
        return self.name.split(".")[0]

    @property
    def why(self) -> str:
        """Return the reasons in one text."""
        return " ".join(self.reasons)


@dataclass(frozen=True)
class Models:
    """All models of a folder, each after those that it reads."""

    folder: Path
    by_name: Mapping[str, SqlModel] = field(default_factory=dict)
    #: What is wrong; the models concerned, and those that read them, are disabled and not among `by_name`.
    mistakes: tuple[Mistake, ...] = ()
    disabled: tuple[DisabledModel, ...] = ()

    def __iter__(self) -> Iterator[SqlModel]:
        return iter(self.by_name.values())

    def __len__(self) -> int:
        return len(self.by_name)

    def __getitem__(self, name: str) -> SqlModel:
        """Return a model by `layer.name`, or by `name` alone where that is clear.

        Raises:
            SqlModelsError: it is disabled; the message says by which mistake.
            UnknownTableError: there is none; the message suggests the nearest one.
        """
        if name in self.by_name:
            return self.by_name[name]
        alike = [full_name for full_name in self.by_name if full_name.split(".")[1] == name]
        if len(alike) == 1:
            return self.by_name[alike[0]]
        for model in self.disabled:
            if name in {model.name, model.name.split(".")[1]}:
                raise SqlModelsError(model.why, where=model.name)
        hint = nearest(name, [*self.by_name, *(full_name.split(".")[1] for full_name in self.by_name)])
        known = f"Known models: {', '.join(self.by_name) or 'none'}."
        raise UnknownTableError(f"unknown model {name!r}", where=str(self.folder), hint=hint or known)

    @property
    def contracts(self) -> dict[str, TableContract]:
        """Return the contracts of the stored models, and of their quarantines."""
        stored = [model.contract for model in self if model.contract is not None]
        return {table.name: table for table in (*stored, *map(quarantine_of, stored))}

    @property
    def views(self) -> dict[str, SqlView]:
        """Return the views."""
        return {model.name: model.view for model in self if model.view is not None}

    @property
    def faults(self) -> dict[str, str]:
        """Return what is wrong by file: all its mistakes, and the models that are disabled because of them."""
        told: dict[str, list[str]] = {}
        for mistake in self.mistakes:
            told.setdefault(mistake.file, []).append(str(mistake))
        for file, texts in told.items():
            lost = {model.name for model in self.disabled if model.file == file}
            own = len(lost)
            # Each after those that it reads or not, so until nothing more is found.
            while more := {model.name for model in self.disabled if lost & set(model.depends_on)} - lost:
                lost |= more
            others = sorted(lost - {model.name for model in self.disabled if model.file == file})
            if own and others:
                texts.append(f"Disabled with it: {', '.join(others)}.")
        return {file: " ".join(texts) for file, texts in told.items()}

    def require_sound(self) -> Models:
        """Return the models themselves.

        Raises:
            SqlModelsError: a file has a mistake; the message lists all of them.
        """
        if self.mistakes:
            count = len(self.mistakes)
            listed = "".join(f"\n  {mistake}" for mistake in self.mistakes)
            raise SqlModelsError(f"{count} mistake{'s' if count > 1 else ''}{listed}", where="SQL models")
        return self

    def select(self, wanted: Iterable[str] = ()) -> list[SqlModel]:
        """Return the named models in the order in which they run; all of them if none is named.

        `+name` means a model and all that it reads, `name+` a model and all that read it.

        Raises:
            UnknownTableError: there is no such model.
        """
        names: set[str] = set()
        for asked in wanted:
            model = self[asked.strip("+")]
            names.add(model.name)
            if asked.startswith("+"):
                names |= self._reach(model.name, upwards=True)
            if asked.endswith("+"):
                names |= self._reach(model.name, upwards=False)
        return [model for model in self if not names or model.name in names]

    def _reach(self, name: str, *, upwards: bool) -> set[str]:
        found: set[str] = set()
        waiting = [name]
        while waiting:
            at = waiting.pop()
            if upwards:
                beside = [neighbour for neighbour in self.by_name[at].depends_on if neighbour in self.by_name]
            else:
                beside = [neighbour.name for neighbour in self if at in neighbour.depends_on]
            new = set(beside) - found
            found |= new
            waiting += new
        return found
