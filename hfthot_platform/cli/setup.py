"""Commands that set an installation up: init."""

from __future__ import annotations

import typer

__all__ = ["init"]


def init(context: typer.Context) -> None:
    """Make a new installation: the lake, the accounts, their keys, and the landing folder.

    What is there already stays as it is.  Apart from `hfthot demo`, only this makes accounts and keys.
    """
    from hfthot_platform.client import LakehouseClient

    settings = context.obj.settings()
    with LakehouseClient.from_settings(settings, create=True):
        settings.landing.mkdir(parents=True, exist_ok=True)
    url = settings.accounts_url is not None
    keys = f"{settings.key_file.absolute()}" if settings.key_source == "file" else settings.key_source
    typer.echo(f"lake      {settings.lake_folder().absolute() if settings.lake_folder() else settings.lake_root}")
    typer.echo(f"accounts  {'the database of HFTHOT_ACCOUNTS_URL' if url else settings.accounts.absolute()}")
    typer.echo(f"keys      {keys}")
    typer.echo(f"landing   {settings.landing.absolute()}")
