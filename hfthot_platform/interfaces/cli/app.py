"""The root command: options that all commands share, and errors as one line and a hint."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from hfthot_platform.core.errors import HfthotError
from hfthot_platform.core.status import status_of
from hfthot_platform.core.version import __version__
from hfthot_platform.interfaces.cli import accounts, data, health, privacy, setup, sql, tables, users
from hfthot_platform.interfaces.cli.output import complain

if TYPE_CHECKING:
    from hfthot_platform.app.installation import Installation
    from hfthot_platform.core.settings import Settings

__all__ = ["app", "main"]


@dataclass
class CommandState:
    """The options of the root command, and the installation of the one command that this process runs."""

    lake: str | None
    debug: bool
    _installation: Installation | None = field(default=None, repr=False)

    def settings(self) -> Settings:
        """Return the settings, with the options of the command line on top."""
        from hfthot_platform.core.settings import load_settings

        return load_settings(lake_root=self.lake) if self.lake else load_settings()

    def installation(self) -> Installation:
        """Return the installation that the settings and the command line name; the root command closes it."""
        from hfthot_platform.app.installation import Installation

        if self._installation is None:
            self._installation = Installation(self.settings())
        return self._installation

    def close(self) -> None:
        """Close the installation, if the command used it."""
        if self._installation is not None:
            self._installation.close()


class _CommandGroup(TyperGroup):
    """Turns errors into one red line, a hint and the error's exit status; `--debug` shows where they come from."""

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                if ctx.obj is not None:
                    ctx.obj.close()
        except (typer.Exit, typer.Abort, TyperException):
            raise
        except BrokenPipeError:
            # The reader (`| head`) has seen enough.  What is still buffered has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except Exception as error:
            if ctx.obj is not None and ctx.obj.debug:
                raise
            complain(*_in_words(error))
            raise typer.Exit(status_of(error).exit) from None


def _in_words(error: Exception) -> tuple[str, str]:
    if isinstance(error, HfthotError):
        return (f"{error.where}: {error.what}" if error.where else error.what), error.hint
    if isinstance(error, OSError) and error.strerror:
        return (f"{error.filename}: {error.strerror}" if error.filename else error.strerror), ""
    return (
        f"unexpected {type(error).__name__}",
        "Run the same command with `hfthot --debug ...` and report the traceback.",
    )


app = typer.Typer(
    name="hfthot",
    cls=_CommandGroup,
    help="A lakehouse of market data: versioned tables, and every row checked before it is published.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:  # noqa: FBT001 - Typer calls it with the option's value
    if wanted:
        typer.echo(f"hfthot {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    *,
    lake: Annotated[
        str | None, typer.Option("--lake", help="Folder or URL of the lake, instead of HFTHOT_LAKE_ROOT.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[  # noqa: ARG001 - handled by its callback
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    context.obj = CommandState(lake, debug)


_COMMANDS: tuple[Callable[..., None], ...] = (
    setup.init,
    setup.settings,
    setup.dagster_config,
    data.demo,
    data.ingest,
    data.withdraw,
    data.gaps,
    data.derive,
    users.ingest_users,
    tables.tables,
    tables.describe,
    tables.history,
    tables.diff,
    tables.check,
    tables.restore,
    tables.maintain,
    health.doctor,
)
for _command in _COMMANDS:
    app.command()(_command)
app.add_typer(sql.sql, name="sql")
app.add_typer(privacy.privacy, name="privacy")
app.add_typer(accounts.accounts, name="accounts")


def main() -> None:
    """Run the command line."""
    app()
