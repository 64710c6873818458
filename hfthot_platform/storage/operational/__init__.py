"""The operational store: its schema and migrations, its transactions, its ordered change log (SQLite or PostgreSQL).

Here belongs what must be true the moment it is acknowledged.  What the operations are is in `services.accounts`; how
the change log reaches the lake in `services.publication`.
"""
