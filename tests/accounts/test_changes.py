"""Entries of the change log."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfthot_platform.core.errors import StoreError
from hfthot_platform.storage.operational.changes import (
    GENESIS,
    AuditEvent,
    RowChange,
    chain_hash,
    chained,
    decode,
    encode,
    personal_digest,
)

TEXT = st.text(max_size=20)
EVENT = st.builds(
    AuditEvent,
    action=TEXT,
    outcome=st.sampled_from(["success", "failure", "refused"]),
    subject_id=st.none() | TEXT,
    actor_id=TEXT,
    resource=st.none() | TEXT,
    detail=st.none() | TEXT,
    ip=st.none() | TEXT,
    user_agent=st.none() | TEXT,
    personal_detail=st.none() | TEXT,
)
VALUE = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT
ROW = st.builds(RowChange, TEXT, st.sampled_from(["put", "forget"]), st.dictionaries(TEXT, VALUE, max_size=4))


@given(rows=st.lists(ROW, max_size=3), event=EVENT)
def test_an_entry_survives_its_payload(rows, event):
    entry = chained(7, 1_700_000_000_000_000, rows, event, GENESIS)
    assert decode(entry.seq, entry.ts, encode(entry)) == entry


def test_the_hash_is_sha256_over_a_stated_json_array():
    digest = personal_digest("e1.x", None, None)
    own = chain_hash(
        GENESIS,
        seq=1,
        ts=86_400_000_000,
        subject_id="s",
        actor_id="system",
        action="a.b",
        outcome="success",
        resource=None,
        detail="{}",
        personal_digest=digest,
    )
    array = [GENESIS, "1970-01-02", 1, 86_400_000_000, "s", "system", "a.b", "success", None, "{}", digest]
    assert own == hashlib.sha256(json.dumps(array, separators=(",", ":")).encode()).hexdigest()
    assert digest == hashlib.sha256(b'["e1.x",null,null]').hexdigest()


@given(EVENT, EVENT)
def test_two_different_events_have_different_hashes(one, other):
    first, second = (chained(1, 1, [], event, GENESIS).hash for event in (one, other))
    assert (first == second) == (one == other)


@pytest.mark.parametrize("payload", [b"", b"2[]", b"1{", b"1[]", b"1[[],[],1,2,3]"])
def test_a_damaged_or_newer_payload_is_named(payload):
    with pytest.raises(StoreError, match="entry 5"):
        decode(5, 1, payload)
