"""A person's rights and the periods of retention as jobs.

Run config, tags, logs and metadata hold a request's random id and counts, and nothing else of anybody: an error of
ours says places and kinds, never values, and of any other error only the class is passed on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import dagster as dg

from assets.privacy import CHAIN
from hfthot_platform.core.errors import ErasureUnverifiedError, HfthotError, LegalHoldError
from hfthot_platform.core.version import __version__
from hfthot_platform.services.ingest.users import sweep_user_files
from hfthot_platform.services.privacy.erasure import run_erasure
from hfthot_platform.services.privacy.erasure_requests import list_erasures, pending_erasures
from hfthot_platform.services.privacy.evidence import export_head
from hfthot_platform.services.privacy.export import run_export
from hfthot_platform.services.privacy.hits import erasure_hits
from hfthot_platform.services.privacy.retention import apply_retention
from hfthot_platform.services.privacy.rotation import rotate_keys
from hfthot_platform.storage.lakehouse import Stamp
from jobs.common import whole_schedule
from resources.platform import NO_ACCOUNTS, Platform

__all__ = ["JOBS", "SCHEDULES"]

_MOST_SHOWN = 100
_REQUEST = {
    "request_id": dg.Field(
        str,
        description="The request's random id: `hfthot privacy erase --list` lists those that are waiting or failed.",
    )
}


@contextmanager
def _without_personal_messages() -> Iterator[None]:
    """Let no message out but those that are known to name nobody; trying again changes nothing about them."""
    try:
        yield
    except dg.Failure:
        raise
    except HfthotError as error:
        raise dg.Failure(f"{type(error).__name__}: {error}", allow_retries=False) from None
    except Exception as error:  # noqa: BLE001 - its message may quote a row
        raise dg.Failure(f"unexpected {type(error).__name__}", allow_retries=False) from None


@dg.op(description="Write everything held about a person into one file.", config_schema=_REQUEST, pool="export")
def export_person(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Carry an export out."""
    with _without_personal_messages():
        run_export(platform.accounts, platform.lake, context.op_config["request_id"])


@dg.op(description="Erase a person for good, prove it, and sign.", config_schema=_REQUEST, pool="erasure")
def erase_person(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Carry an erasure out, from wherever it stands.  One that a legal hold keeps waits, which is not a failure."""
    request_id = context.op_config["request_id"]
    with _without_personal_messages():
        try:
            certificate = run_erasure(platform.accounts, platform.lake, request_id)
        except ErasureUnverifiedError as error:
            raise dg.Failure(
                f"{type(error).__name__}: {error}", metadata=_open_hits(platform, request_id), allow_retries=False
            ) from None
        except LegalHoldError as error:
            context.log.warning("%s", error)
            context.add_output_metadata({"held": True})
            return
    found = certificate.verification
    context.add_output_metadata(
        {
            "held": False,
            "keep_history": certificate.keep_history,
            "scanned_bytes": found["scanned_bytes"],
            "scanned_files": found["scanned_files"],
            "scan_seconds": found["scan_seconds"],
            "canaries_found": found["canaries_found"],
            "versions_read": found["versions_read"],
            "envelopes_decrypted": found["envelopes_decrypted"],
        }
    )


def _open_hits(platform: Platform, request_id: str) -> dict[str, Any]:
    """Return what a failed proof found, by place and form, and until when it can be proven."""
    state = next(erasure for erasure in list_erasures(platform.accounts) if erasure.request_id == request_id)
    rows = [
        dg.TableRecord({"hit": hit.hit, "kind": hit.kind, "place": hit.place, "file": hit.file, "times": hit.count})
        for hit in erasure_hits(platform.accounts, request_id)
        if hit.accepted is None
    ]
    return {
        "open_hits": len(rows),
        "hits": dg.MetadataValue.table(
            rows[:_MOST_SHOWN],
            dg.TableSchema([dg.TableColumn(name) for name in ("hit", "kind", "place", "file", "times")]),
        ),
        "provable_until": str(state.deadline),
    }


@dg.op(description="Remove everything past its retention; request the erasures that are due.", pool="accounts")
def remove_expired(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Apply the periods of retention."""
    if not platform.has_accounts:
        context.log.info(NO_ACCOUNTS)
        with _without_personal_messages():
            swept = sweep_user_files(platform.settings, platform.lake, None, platform.clock())
        context.add_output_metadata({"user_files": swept})
        return
    stamp = Stamp(run_id=context.run_id, asset="audit_retention", code_version=__version__)
    with _without_personal_messages():
        report = apply_retention(platform.accounts, platform.lake, stamp=stamp)
    if report.refused:
        raise dg.Failure(
            f"ClockError: {report.refused}", metadata={"proofs_ended": report.proofs_ended}, allow_retries=False
        )
    with _without_personal_messages():
        swept = sweep_user_files(platform.settings, platform.lake, platform.accounts, platform.clock())
    counts = asdict(report) | {
        "user_files": swept,
        "erasures": len(report.erasures),
        "seconds": round(report.seconds, 3),
    }
    del counts["refused"]
    context.add_output_metadata(counts)


@dg.op(description="Wrap every key with a new key-encryption key; the lake is not touched.", pool="key_rotation")
def rewrap_keys(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Rotate the key-encryption key."""
    with _without_personal_messages():
        report = rotate_keys(platform.accounts)
    context.add_output_metadata(
        {
            "subject_keys": report.subject_keys,
            "installation_keys": report.installation_keys,
            "dropped": len(report.dropped),
        }
    )


@dg.op(
    description="Sign and export the newest entry of the audit log, so that a truncated log is noticed.",
    pool="accounts",
)
def sign_head(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Export the head of the audit log."""
    if not platform.has_accounts:
        context.log.info("there are no accounts yet")
        return
    with _without_personal_messages():
        place = export_head(platform.accounts)
    context.add_output_metadata({"file": dg.MetadataValue.path(place)})


@dg.job(description="Export everything held about a person (GDPR, articles 15 and 20).")
def rgpd_export() -> None:
    """Run one export."""
    export_person()


@dg.job(description="Erase a person for good and prove it (GDPR, article 17).")
def rgpd_erasure() -> None:
    """Run one erasure."""
    erase_person()


@dg.job(description="Remove what is past its retention: audit entries, sessions, exports, quarantined rows, counters.")
def audit_retention() -> None:
    """Run one round of retention."""
    remove_expired()


@dg.job(description="Rotate the key-encryption key.")
def key_rotation() -> None:
    """Run one rotation."""
    rewrap_keys()


@dg.job(description="Sign and export the newest entry of the audit log; copy the file elsewhere.")
def audit_head() -> None:
    """Export the head once."""
    sign_head()


audit_chain = dg.define_asset_job(
    "audit_chain",
    selection=dg.AssetSelection.checks(*CHAIN.check_keys),
    description="Prove that no entry of the audit log was altered, dropped, inserted or moved.",
)


@dg.schedule(
    job=rgpd_erasure,
    cron_schedule="20 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Resumes, every hour, erasures whose process died or whose hold was released.",
)
def erasures_resumed(
    context: dg.ScheduleEvaluationContext, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Go on with erasures whose process died or whose hold was released, hourly, and with failed ones once a day.

    The sensor starts each only once.  A failed one carries the time until which it can be proven as a tag.
    """
    at = context.scheduled_execution_time
    pending = pending_erasures(platform.accounts) if platform.has_accounts else []
    known = list_erasures(platform.accounts) if platform.has_accounts else []
    failed = [erasure for erasure in known if erasure.state == "failed"]
    for request_id in pending:
        yield dg.RunRequest(
            run_key=f"{request_id}:{at:%Y%m%dT%H}",
            run_config={"ops": {"erase_person": {"config": {"request_id": request_id}}}},
        )
    for erasure in failed:
        yield dg.RunRequest(
            run_key=f"{erasure.request_id}:{at:%Y%m%d}",
            run_config={"ops": {"erase_person": {"config": {"request_id": erasure.request_id}}}},
            tags={"hfthot/erasure": "failed", "hfthot/provable_until": f"{erasure.deadline:%Y-%m-%d}"}
            if erasure.deadline is not None
            else {"hfthot/erasure": "failed"},
        )
    if not pending and not failed:
        yield dg.SkipReason("no erasure is waiting" if platform.has_accounts else NO_ACCOUNTS)


JOBS: list[Any] = [rgpd_export, rgpd_erasure, audit_retention, key_rotation, audit_head, audit_chain]

SCHEDULES = [
    erasures_resumed,
    # Before the nightly maintenance, which then takes the files.
    whole_schedule("audit_retention_daily", "audit_retention", "15 2 * * *"),
    whole_schedule("audit_chain_daily", "audit_chain", "0 2 * * *"),
    # After the check: what is signed was found whole a moment ago.
    whole_schedule("audit_head_daily", "audit_head", "10 2 * * *"),
    # Off until somebody decides on it: what was backed up before a rotation cannot be restored after it.
    whole_schedule("key_rotation_monthly", "key_rotation", "0 1 1 * *", running=False),
]
