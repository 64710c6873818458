"""Commands about the operational store as a whole: restore."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from hfthot_platform.core.time import moment
from hfthot_platform.interfaces.cli.output import note, print_json, print_table
from hfthot_platform.interfaces.cli.tables import new_stamp, opened_lake

__all__ = ["accounts"]

accounts = typer.Typer(
    name="accounts", help="The operational store of users, keys and quotas: checks and recovery.", no_args_is_help=True
)


@accounts.callback()
def _group() -> None:
    """Keep `restore` as a separate command."""


@accounts.command()
def clock(
    context: typer.Context,
    *,
    right: Annotated[
        bool, typer.Option("--right", help="Confirm that the clock is right, so that expired data can be removed.")
    ] = False,
) -> None:
    """Check whether the clock is plausible, since expired data is removed by it.  Exits with 1 if it is not."""
    from hfthot_platform.storage.lakehouse import accept_clock, check_clock

    opened = context.obj.installation().accounts
    lake = opened_lake(context)
    if lake.exists():
        if right:
            accept_clock(lake, stamp=new_stamp("accounts-clock"))
        check_clock(lake)
    if right:
        opened.store.accept_clock()
    opened.store.require_clock()
    note("The clock is consistent with the recorded times.")


@accounts.command("set-aside")
def set_aside(
    context: typer.Context,
    *,
    retry: Annotated[bool, typer.Option("--retry", help="Publish the entries that are valid now.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List entries of the change log that a table's contract refused.

    Exits with 1 if there are any.
    """
    from hfthot_platform.services.publication.publisher import Publisher

    opened = context.obj.installation().accounts
    if retry:
        done = Publisher(opened.store, opened_lake(context)).retry(stamp=new_stamp("accounts-set-aside"))
        note(f"{len(done):,} entries were published.")
    waiting = opened.store.waiting_aside()
    rows = [
        (change.entry.seq, moment(change.set_aside_at).isoformat(), change.audited, change.reason) for change in waiting
    ]
    names = ("entry", "since", "in the audit log", "reason")
    if as_json:
        print_json([dict(zip(names, row, strict=True)) for row in rows])
    else:
        print_table(names, rows)
    if waiting:
        raise typer.Exit(1)


@accounts.command()
def restore(
    context: typer.Context,
    *,
    accept_loss: Annotated[
        bool,
        typer.Option("--accept-loss", help="Continue although the lake lost published entries; the loss is recorded."),
    ] = False,
    rewrite: Annotated[
        bool, typer.Option("--rewrite", help="Rewrite every row of the user tables from the store.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Reconcile the store and the lake after either was restored from a backup; run this before anything else.

    Erasures that are missing from the backup are repeated.  Exits with 1 if the audit log is not intact, or an erasure
    could not be proven.
    """
    from hfthot_platform.services.privacy.restore import restore as put_together

    done = put_together(
        context.obj.installation().accounts,
        opened_lake(context, new=accept_loss),
        accept_loss=accept_loss,
        rewrite=rewrite,
        stamp=new_stamp("accounts-restore"),
        notify=note,
    )
    failed = not done.log.intact or any(state != "done" for state in done.erased.values())
    if as_json:
        print_json(asdict(done))
    else:
        met = done.reconciled
        rows: list[tuple[str, object]] = [("store and lake", "fitted together" if met is None else met.state)]
        if met is not None:
            rows += [
                ("entries", f"{met.first:,} to {met.last:,}"),
                ("store entries renumbered", met.moved),
                ("subjects written to the lake", met.written),
                ("subjects unknown to the store", met.forgotten),
            ]
        rows += [
            ("erasures repeated", len(done.erased)),
            ("categories of persons erased again", done.parts),
            ("entries published", done.published),
            ("audit log", "intact" if done.log.intact else "; ".join(map(str, done.log.problems[:10]))),
        ]
        print_table(("", ""), rows)
        for request_id, ended in done.erased.items():
            print_table(("erasure", "ended"), [(request_id, ended)])
    if failed:
        raise typer.Exit(1)
