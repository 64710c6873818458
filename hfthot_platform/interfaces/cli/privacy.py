"""Commands of the data-protection officer: find, rectify, restrict, export, erase, prove, hold, retain, check."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfthot_platform.interfaces.cli.output import counted, note, print_json, print_table, progress_bar, size
from hfthot_platform.interfaces.cli.tables import opened_lake

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hfthot_platform.services.accounts.accounts import Accounts

__all__ = ["privacy"]

privacy = typer.Typer(
    name="privacy",
    help="Personal data: export, erasure and its proof, legal holds, retention, keys.",
    no_args_is_help=True,
)
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_User = Annotated[str, typer.Argument(metavar="USER_ID", help="The account's id.", show_default=False)]
_RequestOnly = Annotated[
    bool,
    typer.Option("--request-only", help="Only create the request and print its id, for Dagster's jobs."),
]


@contextmanager
def _accounts(context: typer.Context) -> Iterator[Accounts]:
    yield context.obj.installation().accounts


@privacy.command()
def find(
    context: typer.Context,
    email: Annotated[
        str | None, typer.Argument(metavar="[EMAIL]", help="The person's e-mail address; prompted for if omitted.")
    ] = None,
    *,
    username: Annotated[
        str | None, typer.Option("--username", help="The person's username, instead of the address.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Find a person's account, and print its id and state.  The search is audited."""
    if email is None and username is None:
        email = typer.prompt("E-mail address")
    with _accounts(context) as accounts:
        user = accounts.find_user(username=username, email=email)
        subject_id = accounts.subject_of(user.user_id)
    shown = {
        "user_id": user.user_id,
        "subject_id": subject_id,
        "username": user.username,
        "email": user.email,
        "first_name": user.first_name,
        "last_name": user.last_name,
        "role": user.role,
        "tier": user.tier,
        "active": user.active,
        "registered": user.created_at,
        "changed": user.updated_at,
        "deleted": user.deleted_at,
        "erased_by_itself": user.erase_after,
    }
    if as_json:
        print_json(shown)
        return
    print_table(("", ""), [(name.replace("_", " "), value) for name, value in shown.items()])


@privacy.command()
def rectify(
    context: typer.Context,
    user_id: _User,
    *,
    username: Annotated[str | None, typer.Option("--username", help="The correct username.")] = None,
    email: Annotated[str | None, typer.Option("--email", help="The correct e-mail address.")] = None,
    first_name: Annotated[
        str | None, typer.Option("--first-name", help="The correct first name; an empty one removes it.")
    ] = None,
    last_name: Annotated[
        str | None, typer.Option("--last-name", help="The correct last name; an empty one removes it.")
    ] = None,
) -> None:
    """Correct the data of a person (GDPR, article 16), and print which fields were changed."""
    from hfthot_platform.core.errors import BadRequestError

    given = {"username": username, "email": email, "first_name": first_name, "last_name": last_name}
    changes: dict[str, Any] = {
        name: value or (None if name.endswith("_name") else value) for name, value in given.items() if value is not None
    }
    if not changes:
        raise BadRequestError(
            "no change is given",
            where="rectify",
            hint="Give --username, --email, --first-name or --last-name.",
        )
    with _accounts(context) as accounts:
        accounts.update_user(user_id, **changes)
    typer.echo(f"changed: {', '.join(sorted(changes))}")


@privacy.command()
def restrict(
    context: typer.Context,
    user_id: _User,
    *,
    lift: Annotated[bool, typer.Option("--lift", help="End the restriction instead.")] = False,
) -> None:
    """Restrict processing to storage (GDPR, article 18): no sign-in and no keys until the restriction ends.

    To prevent erasure as well, place a legal hold: `hfthot privacy holds --place`.
    """
    with _accounts(context) as accounts:
        user = accounts.approve_user(user_id) if lift else accounts.deactivate(user_id)
    typer.echo("may sign in again" if user.active else "restricted: sign-in and keys are refused")


@privacy.command()
def requests(
    context: typer.Context,
    *,
    every: Annotated[bool, typer.Option("--all", help="Include completed requests.")] = False,
    as_json: _Json = False,
) -> None:
    """List the open export and erasure requests, with their deadlines and the ids for Dagster's jobs."""
    from hfthot_platform.services.privacy.erasure_requests import list_erasures
    from hfthot_platform.services.privacy.export import list_exports

    with _accounts(context) as accounts:
        found = [
            ("erasure", erasure.request_id, erasure.state, erasure.requested_at, erasure.deadline, erasure.problem)
            for erasure in list_erasures(accounts)
            if every or erasure.state not in {"done", "unproven"}
        ]
        found += [
            ("export", export.request_id, export.state, export.requested_at, export.expires_at, None)
            for export in list_exports(accounts)
            if every or export.state == "requested"
        ]
    columns = ("kind", "request", "state", "asked for", "until", "problem")
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in found])
        return
    print_table(columns, found)


@privacy.command()
def verify(
    context: typer.Context,
    certificate: Annotated[
        str,
        typer.Argument(
            metavar="CERTIFICATE",
            help="A certificate's file, or the id of its request, for the one in the setting `certificates`.",
            show_default=False,
        ),
    ],
    *,
    key: Annotated[
        str | None,
        typer.Option(
            "--public-key", help="The public key (a line or a file) to check with, instead of this platform's."
        ),
    ] = None,
    user_id: Annotated[
        str | None, typer.Option("--user-id", help="Also check whether it concerns the account with this id.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Check an erasure certificate's signature and content.  Exits with 1 unless it is genuine."""
    from hfthot_platform.services.privacy.certificate import read_public_key
    from hfthot_platform.services.privacy.certificate import verify as check

    if key is None:
        from hfthot_platform.services.privacy.erasure import public_key

        with _accounts(context) as accounts:
            chosen = public_key(accounts)
    else:
        chosen = read_public_key(Path(key).read_text(encoding="ascii") if Path(key).is_file() else key)
    found = check(_certificate(context, certificate), chosen)
    if as_json:
        typer.echo(found.text, nl=False)
        return
    searched = found.verification
    typer.echo(f"Genuine: signed with the key {found.key_id} and not altered.\n")
    rows: list[tuple[str, Any]] = [
        ("request", found.request_id),
        ("asked for", found.requested_at),
        ("unreadable everywhere since", found.destroyed_at),
        ("proven", found.verified_at),
        ("history kept for others", found.keep_history),
        ("last ciphertext leaves the disk", found.ciphertext_until or "it has"),
        ("searched", f"{size(searched['scanned_bytes'])} in {counted(searched['scanned_files'], 'file')}"),
        ("self-test", f"{searched['canaries_found']} of {searched['canaries_planted']} planted values found"),
        ("versions read", searched["versions_read"]),
        ("other people's values decrypted", searched["envelopes_decrypted"]),
        ("removed", ", ".join(f"{name} {count}" for name, count in sorted(found.counts.items()))),
    ]
    print_table(("", ""), rows)
    if user_id is not None:
        typer.echo(f"\nIt concerns this account: {'yes' if found.concerns(user_id) else 'NO'}.")
    for hit in found.accepted:
        typer.echo(
            f"\nAccepted: {hit['kind']} in {hit['place']}: {hit['file']} ({hit['count']} times). {hit['reason']}"
        )
    typer.echo("\nIt does not cover:")
    for limit in found.limits:
        typer.echo(f"  - {limit}")
    if user_id is not None and not found.concerns(user_id):
        raise typer.Exit(1)


def _certificate(context: typer.Context, named: str) -> Path | str:
    """Return the path that a certificate is named by, or, by the id of a request, the one that was filed."""
    path = Path(named)
    if path.exists() or not re.fullmatch("[0-9a-f]{32}", named):
        return path
    from hfthot_platform.core.errors import PrivacyError
    from hfthot_platform.storage.folders import certificates_folder

    filed = certificates_folder(context.obj.settings())
    content = filed.read(f"{named}.json")
    if content is None:
        raise PrivacyError("no certificate of this request is filed", where=filed.location, hint="Check the id.")
    return content.decode("ascii", "replace")


@privacy.command("public-key")
def public_key_(context: typer.Context) -> None:
    """Print the public key that verifies this installation's certificates."""
    from hfthot_platform.services.privacy.certificate import public_key_text
    from hfthot_platform.services.privacy.erasure import public_key

    with _accounts(context) as accounts:
        typer.echo(public_key_text(public_key(accounts)))


@privacy.command()
def export(
    context: typer.Context,
    user_id: _User,
    *,
    format: Annotated[  # noqa: A002
        str, typer.Option("--format", "-f", help="json, csv, parquet or html (a page to read and print).")
    ] = "json",
    request_only: _RequestOnly = False,
) -> None:
    """Write all data of a person to one file, and print its path."""
    from hfthot_platform.services.privacy.export import export_user_data, request_export

    with _accounts(context) as accounts:
        if request_only:
            typer.echo(request_export(accounts, user_id, format))
            return
        typer.echo(export_user_data(accounts, opened_lake(context), user_id, format))


@privacy.command()
def erase(
    context: typer.Context,
    user_id: Annotated[str | None, typer.Argument(metavar="[USER_ID]", help="The account's id.")] = None,
    *,
    keep_history: Annotated[
        bool,
        typer.Option(
            "--keep-history/--no-history",
            help="Whether old versions of the user tables stay readable for other people's data.",
        ),
    ] = True,
    resume: Annotated[
        str | None, typer.Option("--resume", help="Run this request again instead of creating one.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Only list the requests and their states.")] = False,
    request_only: _RequestOnly = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Permanently erase a person, prove it, and print the certificate's path.  This cannot be undone."""
    from hfthot_platform.core.errors import BadRequestError
    from hfthot_platform.services.privacy.erasure_requests import list_erasures, request_erasure

    with _accounts(context) as accounts:
        if listed:
            print_table(
                ("request", "state", "asked for", "history kept", "provable until", "open hits", "problem"),
                [
                    (
                        erasure.request_id,
                        erasure.state,
                        erasure.requested_at,
                        erasure.keep_history,
                        erasure.deadline,
                        erasure.hits,
                        erasure.problem,
                    )
                    for erasure in list_erasures(accounts)
                ],
            )
            return
        if (user_id is None) == (resume is None):
            raise BadRequestError("give a user id, or --resume with the id of a request", where="erase")
        if resume is None:
            assert user_id is not None
            accounts.subject_of(user_id)
            if not yes:
                typer.confirm(f"Permanently erase the account {user_id}?", abort=True)
            resume = request_erasure(accounts, user_id, keep_history=keep_history)
            if request_only:
                typer.echo(resume)
                return
            typer.echo(f"request {resume}", err=True)
        _run_erasure(context, accounts, resume)


@privacy.command()
def resume(
    context: typer.Context,
    request_id: Annotated[str, typer.Argument(metavar="REQUEST", help="The id of the request.", show_default=False)],
) -> None:
    """Continue an erasure that failed, was interrupted or was held, and print the certificate's path."""
    with _accounts(context) as accounts:
        _run_erasure(context, accounts, request_id)


def _run_erasure(context: typer.Context, accounts: Accounts, request_id: str) -> None:
    from hfthot_platform.services.privacy.erasure import run_erasure
    from hfthot_platform.storage.folders import certificates_folder

    with progress_bar("searching") as progress:

        def told(done: int, total: int | None, unit: str) -> None:
            progress(done // 1_000_000, None if total is None else total // 1_000_000, f"M{unit}")

        certificate = run_erasure(accounts, opened_lake(context), request_id, progress=told)
    typer.echo(certificates_folder(accounts.settings).link(f"{certificate.request_id}.json"))


@privacy.command()
def hits(
    context: typer.Context,
    request_id: Annotated[str, typer.Argument(metavar="REQUEST", help="The id of the request.", show_default=False)],
    *,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Show true file names and the text around each value (personal data).")
    ] = False,
    as_json: _Json = False,
) -> None:
    """List the hits of the last proof of an erasure, and which of them were accepted."""
    from hfthot_platform.services.privacy.hits import erasure_hits

    with _accounts(context) as accounts:
        found = erasure_hits(accounts, request_id, reveal=reveal)
    if as_json:
        print_json([asdict(hit) for hit in found])
        return
    more = ("where", "around it") if reveal else ()
    print_table(
        ("hit", "kind", "place", "file", "form", "times", "before", "file changed", "accepted", *more),
        [
            (
                hit.hit,
                hit.kind,
                hit.place,
                hit.file,
                f"{hit.encoding} {hit.inside}".strip(),
                hit.count,
                hit.before,
                hit.modified,
                hit.accepted,
                *((hit.path, hit.context) if reveal else ()),
            )
            for hit in found
        ],
    )


@privacy.command()
def accept(
    context: typer.Context,
    request_id: Annotated[str, typer.Argument(metavar="REQUEST", help="The id of the request.", show_default=False)],
    hit: Annotated[str, typer.Argument(metavar="HIT", help="From `hfthot privacy hits`.", show_default=False)],
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why it is not a trace; the reason is in the certificate.")],
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="Accept the value everywhere, such as a name that is an ordinary word.")
    ] = False,
) -> None:
    """Accept that a hit is not data of the erased person; then run `hfthot privacy resume`."""
    from hfthot_platform.services.privacy.hits import accept_erasure_hit

    with _accounts(context) as accounts:
        accept_erasure_hit(accounts, request_id, hit, reason, everywhere=everywhere)


@privacy.command()
def holds(
    context: typer.Context,
    *,
    place: Annotated[str | None, typer.Option("--place", help="Place a hold on this account (a user id).")] = None,
    release: Annotated[str | None, typer.Option("--release", help="Release this hold.")] = None,
    categories: Annotated[
        str, typer.Option("--categories", help="Comma-separated: identity, sessions, credentials, audit.")
    ] = "",
    reason: Annotated[str, typer.Option("--reason", help="The reason; it is audited.")] = "",
    every: Annotated[bool, typer.Option("--all", help="Include released holds.")] = False,
    as_json: _Json = False,
) -> None:
    """List legal holds, or place or release one."""
    from hfthot_platform.core.errors import BadRequestError
    from hfthot_platform.services.privacy.holds import list_holds, place_hold, release_hold

    if place and release:
        raise BadRequestError("give --place or --release, not both", where="holds")
    with _accounts(context) as accounts:
        if place:
            names = [category.strip() for category in categories.split(",") if category.strip()]
            typer.echo(place_hold(accounts, place, names, reason).hold_id)
            return
        if release:
            typer.echo(release_hold(accounts, release, reason).hold_id)
            return
        found = list_holds(accounts, active=not every)
    if as_json:
        print_json([asdict(hold) for hold in found])
        return
    print_table(
        ("hold", "subject", "categories", "placed", "released", "reason"),
        [
            (hold.hold_id, hold.subject_id, hold.categories, hold.placed_at, hold.released_at, hold.reason)
            for hold in found
        ],
    )


@privacy.command()
def retention(
    context: typer.Context,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and change nothing.")] = False,
    as_json: _Json = False,
) -> None:
    """Remove all data past its retention, and create the erasure requests that are due.

    If the clock jumped ahead, nothing is removed and the command exits with 1; `--dry-run` shows what would be removed.
    """
    from hfthot_platform.services.ingest.users import sweep_user_files
    from hfthot_platform.services.privacy.retention import apply_retention

    with _accounts(context) as accounts:
        lake = opened_lake(context)
        report = asdict(apply_retention(accounts, lake, dry_run=dry_run))
        report["user_files"] = 0
        if not dry_run and not report["refused"]:
            report["user_files"] = sweep_user_files(accounts.settings, lake, accounts, accounts.clock())
    if dry_run:
        report["erasures"] = len(report["erasures"])
    if as_json:
        print_json(report)
    elif dry_run or not report["refused"]:
        print_table(("", ""), [(name.replace("_", " "), value) for name, value in report.items() if name != "refused"])
    if report["refused"]:
        note(report["refused"])
        raise typer.Exit(1)


@privacy.command("rotate-keys")
def rotate_keys(
    context: typer.Context,
    *,
    keep_old: Annotated[
        bool,
        typer.Option("--keep-old", help="Keep the old key-encryption keys, so that older backups can be restored."),
    ] = False,
) -> None:
    """Wrap every key with a new key-encryption key; the lake does not change."""
    from hfthot_platform.services.privacy.rotation import rotate_keys as rotate

    with _accounts(context) as accounts:
        report = rotate(accounts, drop=not keep_old)
    typer.echo(
        f"{counted(report.subject_keys + report.installation_keys, 'key')} wrapped with {report.kek_id}; "
        f"{counted(len(report.dropped), 'old key')} dropped"
    )


@privacy.command()
def head(context: typer.Context) -> None:
    """Export the signed number and hash of the newest entry, and print the file's path; keep a copy elsewhere.

    A log whose end is cut off later, or whose anchor is moved, no longer matches it.
    """
    from hfthot_platform.services.privacy.evidence import export_head

    with _accounts(context) as accounts:
        typer.echo(export_head(accounts))


@privacy.command()
def chain(context: typer.Context, *, as_json: _Json = False) -> None:
    """Verify that no entry of the audit log was altered, dropped, inserted or moved.  Exits with 1 if one was.

    The log is also compared with the heads that `hfthot privacy head` exported.
    """
    from hfthot_platform.services.privacy.evidence import check_log

    with _accounts(context) as accounts:
        report = check_log(accounts, opened_lake(context))
    if as_json:
        print_json(asdict(report))
    elif report.intact:
        typer.echo(
            f"Intact: {counted(report.entries, 'entry').replace('entrys', 'entries')} in the lake and {report.pending} "
            f"waiting, from {report.anchor_seq + 1} to {report.head_seq}; {report.redacted} redacted by erasures; "
            f"{counted(report.exported_heads, 'exported head')} fit."
        )
        if report.lost:
            typer.echo(f"Recorded as lost, because the lake was restored from an older backup: {report.lost}.")
    else:
        for problem in report.problems:
            typer.echo(str(problem))
    if not report.intact:
        raise typer.Exit(1)
