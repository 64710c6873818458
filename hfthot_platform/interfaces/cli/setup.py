"""Commands that set an installation up: init, settings."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from hfthot_platform.interfaces.cli.output import print_json, print_table

__all__ = ["init", "settings"]


def init(context: typer.Context) -> None:
    """Make a new installation: the lake, the accounts, their keys, and the landing folder.

    What is there already stays as it is.  Apart from `hfthot demo`, only this makes accounts and keys.
    """
    from hfthot_platform.core.settings import ready_landing
    from hfthot_platform.interfaces.client import LakehouseClient

    given = context.obj.settings()
    landing = ready_landing(given)
    LakehouseClient.from_settings(given, create=True).close()
    url = given.accounts_url is not None
    keys = f"{given.key_file.absolute()}" if given.key_source == "file" else given.key_source
    typer.echo(f"lake      {given.lake_folder().absolute() if given.lake_folder() else given.lake_root}")
    typer.echo(f"accounts  {'the database of HFTHOT_ACCOUNTS_URL' if url else given.accounts.absolute()}")
    typer.echo(f"keys      {keys}")
    typer.echo(f"landing   {landing}")


def settings(
    context: typer.Context, *, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Print every setting with its value in force and where that came from; secrets are masked."""
    from hfthot_platform.core.settings import effective

    found = effective(context.obj.settings())
    if as_json:
        print_json([asdict(setting) for setting in found])
    else:
        print_table(
            ("setting", "value", "source"), [(setting.name, setting.value, setting.source) for setting in found]
        )
