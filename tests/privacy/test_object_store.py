"""Exports, certificates and the list of erasures on an object store, and what one host cannot see of another."""

from __future__ import annotations

import json

import pytest

from hfthot_platform.core.errors import ErasureUnverifiedError, PrivacyError
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.privacy.certificate import verify
from hfthot_platform.services.privacy.erasure import public_key, run_erasure
from hfthot_platform.services.privacy.erasure_requests import request_erasure
from hfthot_platform.services.privacy.evidence import destructions, export_head, exported_heads
from hfthot_platform.services.privacy.export import export_user_data, list_exports, read_export
from hfthot_platform.services.privacy.hits import accept_erasure_hit, erasure_hits
from hfthot_platform.services.privacy.proof.scan import Needle, scan
from hfthot_platform.services.privacy.retention import apply_retention
from hfthot_platform.services.privacy.searched_places import places_of
from hfthot_platform.storage.folders import certificates_folder, exports_folder
from hfthot_platform.storage.lakehouse import Lakehouse
from tests.object_store import serving
from tests.privacy.people import YAN, ZOE, register


@pytest.fixture(scope="module")
def store_server():
    with serving() as server:
        yield server


@pytest.fixture
def settings(settings, store_server, request):
    below = f"s3://lake/{request.node.name[:60]}"
    shared = {name: f"{below}/{name}" for name in ("exports", "certificates", "reports")}
    options = {"storage_options": store_server.options, **shared}
    return type(settings)(**{name: value for name, value in settings if name not in options}, **options)


@pytest.fixture
def zoe(accounts):
    register(accounts, YAN)
    return register(accounts, ZOE)


def on_another_host(accounts, settings, clock, **places):
    """Open the same accounts with the disks of another host."""
    del accounts
    return Accounts.open(settings.model_copy(update=places), clock)


def test_an_export_is_on_the_store_and_none_of_it_on_the_disk(accounts, lake, zoe, settings):
    url = export_user_data(accounts, lake, zoe.user_id)

    request_id = list_exports(accounts)[0].request_id
    assert url == f"{settings.exports}/{request_id}/export.json"
    document = json.loads(read_export(accounts, request_id, "export.json"))
    assert document["tables"]["profile"][0]["email"] == ZOE.email
    manifest = json.loads(read_export(accounts, request_id, "manifest.json"))
    assert manifest["archive"]["bytes"] == len(read_export(accounts, request_id, "export.json"))
    assert list(settings.scratch.rglob("*")) == []


@pytest.mark.soak
@pytest.mark.parametrize("form", ["csv", "parquet", "html"])
def test_each_format_is_whole_there(accounts, lake, zoe, form):
    export_user_data(accounts, lake, zoe.user_id, form)

    request_id = list_exports(accounts)[0].request_id
    manifest = json.loads(read_export(accounts, request_id, "manifest.json"))
    assert manifest["archive"]["bytes"] == len(read_export(accounts, request_id, manifest["archive"]["name"])) > 1000


def test_an_export_whose_time_is_over_is_deleted_from_the_store(accounts, lake, zoe, settings, clock):
    export_user_data(accounts, lake, zoe.user_id)
    clock.forward(days=8)

    apply_retention(accounts, lake)

    assert exports_folder(settings).files() == []
    with pytest.raises(PrivacyError, match="no such file"):
        read_export(accounts, list_exports(accounts)[0].request_id, "export.json")


@pytest.mark.soak
def test_an_erasure_deletes_an_export_that_another_host_made_and_searches_the_store(
    accounts, lake, zoe, settings, clock, tmp_path
):
    with on_another_host(accounts, settings, clock, scratch=tmp_path / "b") as other:
        export_user_data(other, lake, zoe.user_id)

    certificate = run_erasure(accounts, lake, request_erasure(accounts, zoe.user_id))

    assert certificate.counts["exports"] == 1
    assert exports_folder(settings).files() == []
    assert {"exports", "certificates", "reports"} <= set(certificate.verification["places"])
    text = certificates_folder(settings).read(f"{certificate.request_id}.json").decode()
    assert verify(text, public_key(accounts)) == certificate
    needles = [Needle("value", value) for value in (*ZOE.values, zoe.user_id)]
    assert [str(finding) for finding in scan(needles, places_of(accounts, lake)).findings] == []


@pytest.mark.soak
def test_what_of_the_person_is_left_on_the_store_stops_the_certificate(accounts, lake, zoe, settings):
    exports_folder(settings).put("forgotten/notes.txt", f"ask {ZOE.email}".encode())

    with pytest.raises(ErasureUnverifiedError, match=r"email in exports: forgotten/notes\.txt"):
        run_erasure(accounts, lake, request_erasure(accounts, zoe.user_id))


def test_an_export_on_the_disk_of_another_host_stops_the_certificate_until_it_is_gone(
    accounts, lake, zoe, settings, clock, tmp_path
):
    there = tmp_path / "another host" / "exports"
    with on_another_host(accounts, settings, clock, exports=there) as other:
        path = export_user_data(other, lake, zoe.user_id)
    there.rename(tmp_path / "out of sight")
    request_id = request_erasure(accounts, zoe.user_id)

    with pytest.raises(ErasureUnverifiedError, match=r"1 files could not be searched; .*this host does not have it"):
        run_erasure(accounts, lake, request_id)
    (tmp_path / "out of sight").rename(there)
    certificate = run_erasure(accounts, lake, request_id)

    assert not path.exists()
    assert certificate.counts["exports"] == 1


@pytest.mark.soak
def test_an_export_that_is_known_to_be_gone_is_accepted_with_a_reason(accounts, lake, zoe, settings, clock, tmp_path):
    there = tmp_path / "another host"
    with on_another_host(accounts, settings, clock, exports=there) as other:
        export_user_data(other, lake, zoe.user_id)
    there.rename(tmp_path / "its disk was destroyed")
    request_id = request_erasure(accounts, zoe.user_id)
    with pytest.raises(ErasureUnverifiedError):
        run_erasure(accounts, lake, request_id)
    (hit,) = erasure_hits(accounts, request_id)

    accept_erasure_hit(accounts, request_id, hit.hit, "the host was scrapped, with its disk")
    certificate = run_erasure(accounts, lake, request_id)

    assert [judgement["reason"] for judgement in certificate.accepted] == ["the host was scrapped, with its disk"]


@pytest.mark.soak
def test_the_list_of_erasures_and_the_heads_of_the_log_are_on_the_store(accounts, lake, zoe, settings):
    export_head(accounts)
    certificate = run_erasure(accounts, lake, request_erasure(accounts, zoe.user_id))

    assert [destruction.request_id for destruction in destructions(accounts)] == [certificate.request_id]
    assert [head.seq for head in exported_heads(accounts)] == [head.seq for head in exported_heads(accounts)] != []
    assert not any(folder.exists() for folder in (settings.accounts.parent / "certificates",))


def test_an_object_is_fetched_once_by_a_search(accounts, lake, zoe, settings, store_server):
    for number in range(5):
        exports_folder(settings).put(f"other/{number}.txt", b"nothing of anybody")
    places = [place for place in places_of(accounts, lake) if place.name == "exports"]
    store_server.requests()

    report = scan([Needle("email", ZOE.email)], places)

    methods = [request for request in store_server.requests() if "/exports/other/" in request.path]
    assert report.places[0].files == 5
    assert sorted(request.method for request in methods) == ["GET"] * 5


@pytest.mark.soak
def test_a_lake_on_the_store_is_searched_with_one_request_for_each_object(
    accounts, settings, clock, zoe, store_server, request
):
    lake = Lakehouse.open(
        f"s3://lake/{request.node.name[:60]}/lake", settings.plain_storage_options(), clock=clock, new=True
    )
    request_id = request_erasure(accounts, zoe.user_id)
    store_server.requests()

    certificate = run_erasure(accounts, lake, request_id)

    objects = sum(place["files"] for name, place in certificate.verification["places"].items() if name != "store")
    assert certificate.verification["places"]["lake"]["files"] > 20
    # Fetched once each; the rest is canaries, publications, and the history of five tables.
    assert len(store_server.requests()) <= objects + 1000
