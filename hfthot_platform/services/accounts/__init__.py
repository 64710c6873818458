"""Users, sessions, API keys, quotas and audit events: operations of one transaction each.

The store beneath is `storage.operational`; how its change log reaches the lake is `services.publication`; export,
erasure and proof are in `services.privacy`.
"""
