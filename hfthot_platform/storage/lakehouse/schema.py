"""A table on storage as its contract wants it: made, or brought to the contract's newer schema.

Additive changes happen by themselves where the contract raised its version; anything else is an error that says how to
migrate.
"""

from __future__ import annotations

from typing import Final

from deltalake import DeltaTable
from deltalake.schema import Field, Schema

from hfthot_platform.core.errors import SchemaMismatchError
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.storage.lakehouse.log import DeltaLog
from hfthot_platform.storage.lakehouse.snapshot import needs_migration, wrong_type

__all__ = ["create", "evolve", "is_outdated"]

_VERSION_PROPERTY: Final = "hfthot.schema_version"


def create(contract: TableContract, log: DeltaLog) -> None:
    """Make the table, empty and durable; another writer may do so in the same instant."""
    days = contract.history_days
    configuration: dict[str, str | None] = {
        _VERSION_PROPERTY: str(contract.schema_version),
        "delta.dataSkippingStatsColumns": ",".join(contract.stats_columns),
        "delta.checkpointInterval": str(log.backend.checkpoint_interval),
        "delta.deletedFileRetentionDuration": f"interval {days} days",
        "delta.logRetentionDuration": f"interval {days} days",
    }
    backend = log.backend
    backend.create()
    try:
        DeltaTable.create(
            backend.location,
            contract.arrow_schema,
            partition_by=[contract.partition_by] if contract.partition_by else None,
            name=contract.name,
            description=contract.description,
            configuration=configuration,
            storage_options=backend.options,
            raise_if_key_not_exists=False,
        )
    except Exception:
        # Another writer may have created it in the same instant; anything else is raised again.
        if log.open() is None:
            raise
    else:
        backend.make_durable((), 0)


def evolve(contract: TableContract, handle: DeltaTable) -> None:
    """Add the columns that came later, and let be null what may be null by now.

    Raises:
        CommitFailedError: another writer committed meanwhile.
        SchemaMismatchError: the stored table differs in a way that needs a migration.
    """
    if added := _lacks(contract, handle):
        handle.alter.add_columns(added)
    for name in _loosened(contract, handle):
        handle.alter.drop_column_not_null(name)
    handle.alter.set_table_properties({_VERSION_PROPERTY: str(contract.schema_version)}, raise_if_not_exists=False)


def is_outdated(contract: TableContract, handle: DeltaTable) -> bool:
    """Return whether the stored table lacks columns or says an older schema version.

    Raises:
        SchemaMismatchError: the stored table differs in a way that needs a migration.
    """
    partition = [contract.partition_by] if contract.partition_by else []
    metadata = handle.metadata()
    if metadata.partition_columns != partition:
        raise needs_migration(
            contract, f"the table is partitioned by {metadata.partition_columns}, but the contract says {partition}"
        )
    stored = int(metadata.configuration.get(_VERSION_PROPERTY, 0))
    if stored > contract.schema_version:
        raise needs_migration(
            contract, f"the table has schema version {stored}, but this code knows {contract.schema_version}"
        )
    lacks = _lacks(contract, handle)
    loosened = _loosened(contract, handle)
    if loosened and stored == contract.schema_version:
        raise needs_migration(
            contract, f"column {loosened[0]!r} is stored as not nullable, but the contract says nullable"
        )
    if lacks and stored == contract.schema_version:
        # Readers fill a missing column with nulls only where the contract says that it came later.
        raise SchemaMismatchError(
            f"column {lacks[0].name!r} is new, but the contract still says schema version {stored}",
            where=contract.name,
            hint="Raise schema_version in the contract.",
        )
    return stored < contract.schema_version


def _lacks(contract: TableContract, handle: DeltaTable) -> list[Field]:
    """Return the contract's columns that the stored table does not have yet."""
    stored = {field.name: field for field in handle.schema().fields}
    lacks: list[Field] = []
    for field in Schema.from_arrow(contract.arrow_schema).fields:
        there = stored.pop(field.name, None)
        if there is None:
            if not field.nullable:
                raise needs_migration(contract, f"column {field.name!r} is new and not nullable")
            lacks.append(field)
        elif there.type != field.type:
            raise wrong_type(contract, field, there.type)
        elif there.nullable and not field.nullable:
            raise needs_migration(
                contract, f"column {field.name!r} is stored as nullable, but the contract says not nullable"
            )
    if stored:
        raise needs_migration(contract, f"column {min(stored)!r} is stored but not in the contract")
    return lacks


def _loosened(contract: TableContract, handle: DeltaTable) -> list[str]:
    """Return the columns that are stored as not nullable and may be null by the contract."""
    stored = {field.name for field in handle.schema().fields if not field.nullable}
    return [column.name for column in contract.columns if column.nullable and column.name in stored]
