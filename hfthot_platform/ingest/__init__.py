"""From sources to tables: feeds for a span of days, files from the landing folder, and what is derived.

`feeds` builds the configured feeds and stages what they yield; `files` recognises, audits, publishes and
files away; `derive` computes tables in which a vendor's statement takes precedence.  How a vendor's data is
parsed belongs in `hfthot_platform.market.sources`; when this runs is decided by the Dagster layer or the
command line.
"""

from hfthot_platform.ingest.derive import Derivation, derive
from hfthot_platform.ingest.feeds import build_feeds, ingest_feed, stage_feeds
from hfthot_platform.ingest.files import (
    folders_not_read,
    incident_of,
    ingest_files,
    ingest_landing,
    waiting_files,
    withdraw_file,
)
from hfthot_platform.ingest.records import FileOutcome

__all__ = [
    "Derivation",
    "FileOutcome",
    "build_feeds",
    "derive",
    "folders_not_read",
    "incident_of",
    "ingest_feed",
    "ingest_files",
    "ingest_landing",
    "stage_feeds",
    "waiting_files",
    "withdraw_file",
]
