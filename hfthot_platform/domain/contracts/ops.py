"""Contracts of `ops.*` (what the platform knows of its own work) and of `quarantine.*` (rejected rows)."""

from __future__ import annotations

from typing import Final

from hfthot_platform.domain.contracts.model import DATE, INT, SMALL, TEXT, TIME, Column, TableContract
from hfthot_platform.domain.contracts.rules import Between, Matches, OneOf

__all__ = ["INCIDENTS", "INGEST_FILES", "quarantine_of"]

_VERSION = Column("schema_version", SMALL, "Version of this contract when the row was written", provenance=True)

INGEST_FILES = TableContract(
    name="ops.ingest_files",
    description="The result of every ingested file, by content: the same content is ingested once per mapping.",
    columns=(
        Column(
            "content_hash", TEXT, "SHA-256 of the file's bytes; for a second table, of this hash and the table's name"
        ),
        Column("name", TEXT, "File name when it was ingested"),
        Column("bytes", INT, "Size", unit="bytes"),
        Column("adapter", TEXT, "Adapter and preset that recognised it", nullable=True),
        Column(
            "status", TEXT, "published, rejected or withdrawn; publishing until all tables of the file are published"
        ),
        Column("reason", TEXT, "Machine-readable reason of a rejection", nullable=True),
        Column("detail", TEXT, "The reason in words", nullable=True),
        Column("target", TEXT, "Table that the rows were written to", nullable=True),
        Column("rows_read", INT, "Rows found in the file"),
        Column("rows_published", INT, "Rows published from this file"),
        Column("rows_duplicate", INT, "Rows that already existed or were repeated in the file"),
        Column("rows_quarantined", INT, "Rows quarantined"),
        Column("first_ts", TIME, "Earliest event published", nullable=True),
        Column("last_ts", TIME, "Latest event published", nullable=True),
        Column("ingested_at", TIME, "When"),
        Column("run_id", TEXT, "Run that wrote the row"),
        _VERSION,
        Column("rows_gaps", INT, "Rows that say that nothing was traded", nullable=True),
        Column("rows_updated", INT, "Published rows that replaced rows of another source", nullable=True),
        Column("rows_withdrawn", INT, "Rows of this content that were withdrawn from the table", nullable=True),
        Column("rows_restored", INT, "Rows of other sources that were restored in their place", nullable=True),
        Column("mapping_hash", TEXT, "SHA-256 of the mapping that was declared; null without one", nullable=True),
        Column("source_ref", TEXT, "`source_ref` of its rows", nullable=True),
        Column("version", INT, "Version of the table that published its rows", nullable=True),
        Column("commit_id", TEXT, "Id of that commit", nullable=True),
        Column("days", TEXT, "UTC days whose rows changed, as `2024-01-01..2024-01-31 2024-03-05`", nullable=True),
        Column("file_hash", TEXT, "SHA-256 of the file where `content_hash` is that of a second table", nullable=True),
    ),
    primary_key=("content_hash",),
    sort_by=("ingested_at", "content_hash"),
    schema_version=3,
    rules=(
        Matches("content_hash", "[0-9a-f]{64}"),
        OneOf("status", ("publishing", "published", "rejected", "withdrawn")),
        Between("rows_read", 0, 1e15),
        Between("rows_published", 0, 1e15),
        Between("rows_duplicate", 0, 1e15),
        Between("rows_quarantined", 0, 1e15),
    ),
    stats_columns=("content_hash", "ingested_at"),
)

#: What an incident can be.
INCIDENT_KINDS: Final = (
    "run_failure",
    "check_failure",
    "stale",
    "dead_run",
    "retention_blocked",
    "file_rejected",
    "set_aside",
    "clock",
    "sql_model_disabled",
)

INCIDENTS = TableContract(
    name="ops.incidents",
    description="Failed runs and other events that need attention.",
    columns=(
        Column("month", DATE, "First day of the month of `ts`; partition"),
        Column("incident_id", TEXT, "Stable id: the id of the failed run, or a hash of the event"),
        Column("ts", TIME, "When it happened"),
        Column("severity", TEXT, "warning or error"),
        Column("kind", TEXT, f"{', '.join(INCIDENT_KINDS)}"),
        Column("job", TEXT, "Job concerned", nullable=True),
        Column("run_id", TEXT, "Run concerned", nullable=True),
        Column("step", TEXT, "Step concerned", nullable=True),
        Column("error_class", TEXT, "Class of the error", nullable=True),
        Column("message", TEXT, "First line of the error, redacted", nullable=True),
        _VERSION,
    ),
    primary_key=("incident_id",),
    sort_by=("ts", "incident_id"),
    partition_by="month",
    time_column="ts",
    rules=(
        OneOf("severity", ("warning", "error")),
        OneOf("kind", INCIDENT_KINDS),
    ),
    stats_columns=("month", "ts"),
    retention_days=400,
)


def quarantine_of(contract: TableContract) -> TableContract:
    """Return the contract of the table that takes `contract`'s rejected rows."""
    return TableContract(
        name=contract.quarantine,
        description=f"Rejected rows of `{contract.name}`, each with the reason; nothing is dropped silently.",
        columns=(
            Column("quarantined_on", DATE, "UTC day of `quarantined_at`; retention", provenance=True),
            Column(
                "quarantine_id", TEXT, "Hash of source, position, reason and content, so that a re-run adds nothing"
            ),
            Column("reason", TEXT, "Machine-readable reason", few=True),
            Column("detail", TEXT, "The rule in words", nullable=True, few=True),
            Column("source_ref", TEXT, "Source of the row", few=True, nullable=True, role="provenance"),
            Column("row_number", INT, "Position in the source, from 1, where known", nullable=True),
            Column("row", TEXT, "The row as it was read, as JSON"),
            Column("quarantined_at", TIME, "When", provenance=True),
            Column("run_id", TEXT, "Run that wrote the row", provenance=True),
            _VERSION,
        ),
        primary_key=("quarantine_id",),
        sort_by=("source_ref", "row_number", "quarantine_id"),
        time_column="quarantined_on",
        stats_columns=("quarantined_on",),
        retention_days=365,
        written_column="quarantined_on",
    )
