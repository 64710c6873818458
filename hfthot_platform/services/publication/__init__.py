"""The way of the store's change log into the lake's user tables: in order and exactly once.

Here too: the proof that the audit log is whole, and bringing store and lake together again after one was restored.
"""
