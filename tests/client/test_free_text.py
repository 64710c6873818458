"""Nothing that a caller types lies in clear in lake, store or audit log: each text of each call is a marker once."""

from __future__ import annotations

import contextlib
from pathlib import Path

import polars as pl
import pytest

from hfthot_platform.core.errors import HfthotError

from .calls import ARGUMENTS, Scene, call

MARKER = "quintessabel"
#: Spellings that an argument's own rule may let through.
SPELLINGS = (MARKER, f"market/{MARKER.upper()}")


def _marked(value, spelling):
    """Yield copies of a value with the marker in one of its texts each."""
    if isinstance(value, str):
        yield spelling
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield {**value, spelling: inner}
            for changed in _marked(inner, spelling):
                yield {**value, name: changed}
        if not value:
            yield {spelling: 1}


def _in_clear(folder: Path) -> list[str]:
    found = []
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        if MARKER.encode() in path.read_bytes().lower():
            found.append(str(path.relative_to(folder)))
        elif path.suffix == ".parquet":
            texts = pl.read_parquet(path, hive_partitioning=False).select(pl.col(pl.String))
            if any(texts[name].str.to_lowercase().str.contains(MARKER).any() for name in texts.columns):
                found.append(str(path.relative_to(folder)))
    return found


@pytest.mark.soak
def test_no_text_of_any_call_lies_in_clear(client, folder, signed_in):
    here = signed_in("mallory", tier="enterprise")
    tried = 0
    for name, make in sorted(ARGUMENTS.items()):
        if name in {"close", "flush", "delete_user_permanent", "export_user_data"}:
            continue
        good = make(Scene(client))
        for caller in (here, client):
            who = getattr(caller, "user_id", good.get("user_id"))
            own = {**good, "user_id": who} if "user_id" in good else good
            for argument, value in own.items():
                if argument == "user_id":
                    continue
                for spelling in SPELLINGS:
                    for changed in _marked(value, spelling):
                        with contextlib.suppress(HfthotError, pl.exceptions.PolarsError):
                            tried += 1
                            call(caller, name, {**own, argument: changed})
    client.flush()
    assert tried > 100
    assert _in_clear(folder) == []


@pytest.mark.parametrize("name", ["Zoe Quintessa", "provider:finnhub", "\ud800", "", "a" * 41])
def test_a_providers_name_has_the_form_of_one(client, register, name):
    user = register()
    for given in ("key", {"api_key": "key", "queries_limit": 1}):
        with pytest.raises(ValueError, match=r"provider"):
            client.save_api_keys(user.user_id, {name: given})
    for count in (client.update_query_count, client.get_query_stats):
        with pytest.raises(ValueError, match=r"provider"):
            count(user.user_id, name)


@pytest.mark.soak
def test_what_somebody_calls_a_provider_keeps_nobody_elses_erasure_from_being_proven(client, folder, register):
    somebody, other = register("zoe_quintessabel"), register()
    client.save_api_keys(other.user_id, {MARKER: {"api_key": "k", "queries_limit": 5}})
    client.update_query_count(other.user_id, MARKER)
    client.flush()
    assert client.get_api_keys(other.user_id)["provider_keys"][MARKER]["queries_remaining"] == 4
    assert _in_clear(folder) == []
    assert client.delete_user_permanent(somebody.user_id).verification


def test_a_symbol_that_the_lake_has_is_named_in_the_audit_log_and_another_is_not(client, signed_in):
    here = signed_in("ada", tier="enterprise")
    here.list_versions("market/ALPHA-USDT")
    here.list_versions("market/QUINTESSABEL")
    log = client.get_audit_log(here.user_id, action_type="table.versions")
    assert log["resource"].to_list() == ["market/ALPHA-USDT", "market"]
