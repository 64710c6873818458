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
    name="accounts", help="The operational store of users, keys and quotas: after a restore.", no_args_is_help=True
)


@accounts.callback()
def _group() -> None:
    """Keep `restore` a command of its own."""


@accounts.command()
def clock(
    context: typer.Context,
    *,
    right: Annotated[
        bool, typer.Option("--right", help="Somebody looked: the clock is right, what is past its time may go.")
    ] = False,
) -> None:
    """Say whether the clock can be trusted with removing what is past its time.  Exits with 1 if it cannot."""
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
    note("The clock agrees with what happened so far.")


@accounts.command("set-aside")
def set_aside(
    context: typer.Context,
    *,
    retry: Annotated[bool, typer.Option("--retry", help="Publish what nothing speaks against any more.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List entries of the change log that a table's contract refused; the others were published.

    Exits with 1 if some wait.
    """
    from hfthot_platform.services.publication.publisher import Publisher

    opened = context.obj.installation().accounts
    if retry:
        done = Publisher(opened.store, opened_lake(context)).retry(stamp=new_stamp("accounts-set-aside"))
        note(f"{len(done):,} entries were published.")
    waiting = opened.store.waiting_aside()
    rows = [(each.entry.seq, moment(each.set_aside_at).isoformat(), each.audited, each.reason) for each in waiting]
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
        typer.Option("--accept-loss", help="Go on although the lake lost published entries; the loss stays on record."),
    ] = False,
    rewrite: Annotated[
        bool, typer.Option("--rewrite", help="Write every row of the user tables anew from the store.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Bring store and lake together after a backup of either was put back; run it before anything else does.

    Erasures that the backup does not know are carried out again.  Exits with 1 if the audit log is not whole, or an
    erasure could not be proven.
    """
    from hfthot_platform.services.privacy.restore import restore as put_together

    done = put_together(
        context.obj.installation().accounts,
        opened_lake(context, new=accept_loss),
        accept_loss=accept_loss,
        rewrite=rewrite,
        stamp=new_stamp("accounts-restore"),
        told=note,
    )
    failed = not done.log.intact or any(each != "done" for each in done.erased.values())
    if as_json:
        print_json(asdict(done))
    else:
        met = done.reconciled
        rows: list[tuple[str, object]] = [("store and lake", "fitted together" if met is None else met.state)]
        if met is not None:
            rows += [
                ("entries", f"{met.first:,} to {met.last:,}"),
                ("of the store, renumbered", met.moved),
                ("subjects written to the lake", met.written),
                ("subjects that the store does not know", met.forgotten),
            ]
        rows += [
            ("erasures carried out again", len(done.erased)),
            ("parts of persons erased again", done.parts),
            ("entries published", done.published),
            ("audit log", "intact" if done.log.intact else "; ".join(map(str, done.log.problems[:10]))),
        ]
        print_table(("", ""), rows)
        for request_id, ended in done.erased.items():
            print_table(("erasure", "ended"), [(request_id, ended)])
    if failed:
        raise typer.Exit(1)
