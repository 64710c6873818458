"""Where a table's files are, and what can be done with them there: a local folder or an object store.

`Backend` is what both can do; nobody above asks which one it is.  What belongs here: bytes, names, durability, locks.
What does not: what a log or a data file says (`log`, `snapshot`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfthot_platform.storage.lakehouse.backends.base import (
    FAR_BEHIND,
    Backend,
    EntryState,
    LogFault,
    checkpoint_version,
    entry_name,
    entry_version,
)

if TYPE_CHECKING:
    from hfthot_platform.domain.contracts import TableContract
    from hfthot_platform.storage.lakehouse.storage import Storage

__all__ = [
    "FAR_BEHIND",
    "Backend",
    "EntryState",
    "LogFault",
    "backend_of",
    "checkpoint_version",
    "entry_name",
    "entry_version",
]


def backend_of(storage: Storage, contract: TableContract) -> Backend:
    """Return the place of a table's files."""
    folder, lock_file = storage.local_table(contract), storage.lock_file(contract)
    if storage.local is not None and folder is not None and lock_file is not None:
        from hfthot_platform.storage.lakehouse.backends.local import LocalBackend

        return LocalBackend(contract.name, folder, lock_file, storage.local / "_damaged" / contract.name)
    from hfthot_platform.storage.lakehouse.backends.object import ObjectBackend

    return ObjectBackend(contract.name, storage.root, storage.uri(contract), storage.options)
