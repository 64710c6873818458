"""Commands that set an installation up: init, settings, dagster-config."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from hfthot_platform.interfaces.cli.output import print_json, print_table

__all__ = ["dagster_config", "init", "settings"]


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


def dagster_config(
    context: typer.Context,
    orchestration: Annotated[
        str, typer.Argument(help="one_host, postgres, ray or kubernetes.", show_default="the setting")
    ] = "",
) -> None:
    """Print the configuration of the Dagster instance: for `dagster.yaml` in the folder that DAGSTER_HOME names.

    It has no secret and no address: they come from the environment of each process of Dagster.
    """
    from typing import cast, get_args

    from hfthot_platform.core.errors import BadRequestError, nearest
    from hfthot_platform.core.settings import Orchestration
    from resources.instance import instance_yaml

    known = get_args(Orchestration)
    chosen = orchestration or context.obj.settings().orchestration
    if chosen not in known:
        hint = nearest(chosen, known) or f"One of {', '.join(known)}."
        raise BadRequestError(f"there is no configuration {chosen!r}", where="dagster-config", hint=hint)
    typer.echo(instance_yaml(cast("Orchestration", chosen)), nl=False)
