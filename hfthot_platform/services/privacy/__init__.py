"""Personal data: export, erasure and its proof, retention, holds, rotation of keys.

Keys and envelopes are `storage.vault`.  Nothing here knows Dagster.
"""
