"""Users, sessions, API keys, quotas and audit: the operational store and its ordered change log.

Here belongs what must be true the moment it is acknowledged: one transaction per operation, in a database
beside the lake, never inside it.  How the change log reaches the lake's user tables is here too.  Export,
erasure and proof are in `privacy`; nothing here knows Dagster.
"""
