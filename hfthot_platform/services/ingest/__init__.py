"""From sources to tables: feeds for a span of days, and files from the landing folder.

`feeds` stages what feeds yield; `files` recognises, audits, publishes and files away
(`object_landing` on an object store, `landing` wherever the settings say); `users` does the same for
files of user events, which `user_events` reads.  How a vendor's data is parsed belongs in `hfthot_platform.adapters`;
tables that are computed from others in `services.derive`; when this runs is decided by the Dagster layer or the
command line.
"""

from hfthot_platform.services.ingest.feeds import ingest_feed, stage_feeds, stated_by
from hfthot_platform.services.ingest.files import (
    folders_not_read,
    incident_of,
    ingest_files,
    ingest_landing,
    waiting_files,
    withdraw_file,
)
from hfthot_platform.services.ingest.landing import ingest_waiting, places_not_read, waiting
from hfthot_platform.services.ingest.records import FileOutcome

__all__ = [
    "FileOutcome",
    "folders_not_read",
    "incident_of",
    "ingest_feed",
    "ingest_files",
    "ingest_landing",
    "ingest_waiting",
    "places_not_read",
    "stage_feeds",
    "stated_by",
    "waiting",
    "waiting_files",
    "withdraw_file",
]
