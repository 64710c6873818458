"""Settings: the only reader of the environment.

Every setting can come from an environment variable `HFTHOT_<NAME>` or from the TOML file that
`HFTHOT_CONFIG` names (default `hfthot.toml` in the working folder); the environment wins.  Secrets are
`SecretStr`: they never show in a log, a repr or an error.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import unquote, urlparse

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from hfthot_platform.core.errors import ConfigError, nearest
from hfthot_platform.core.files import made_folder

__all__ = ["ArchiveFeedSettings", "CcxtFeedSettings", "FeedSettings", "SampleFeedSettings", "Settings"]
__all__ += ["Setting", "SimulatedFeedSettings", "dagster_home", "effective", "load_settings"]
__all__ += ["Location", "ready_landing"]

#: Variables with our prefix that are no settings: the settings' file, and what the tests are told.
_NO_SETTINGS: Final = ("CONFIG", "SHARED_DATA", "UPDATE_SNAPSHOT", "SCREENSHOTS", "CANARY", "SOAK_", "FUZZ_", "EXPLORE")


#: Settings that are local places.
_PLACES: Final = (
    "landing",
    "scratch",
    "sql_models",
    "accounts",
    "key_file",
    "exports",
    "certificates",
    "reports",
    "users_root",
    "dagster_home",
)


def _as_location(given: object) -> object:
    """Take a text for a path, unless it is the URL of an object store."""
    if not isinstance(given, str):
        return given
    folder = _local(given)
    return given.rstrip("/") if folder is None else folder


#: A folder of this host, or the URL of a folder on an object store that all hosts reach.
Location = Annotated[Path | str, BeforeValidator(_as_location)]


#: How Dagster starts runs.
Orchestration = Literal["one_host", "postgres", "ray", "kubernetes"]


class _FeedSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SampleFeedSettings(_FeedSettings):
    """Real daily data that ships inside Python packages: S&P 500 bars, 20 US stocks' closes."""

    kind: Literal["sample"] = "sample"


class SimulatedFeedSettings(_FeedSettings):
    """A seeded exchange; its rows say `synthetic`."""

    kind: Literal["simulated"] = "simulated"
    seed: int = 7
    """The same seed makes the same rows."""
    symbols: tuple[str, ...] = ("ALPHA-USDT", "BRAVO-USDT", "CHARLIE-USDT")
    """Its symbols."""
    trades_per_day: Annotated[int, Field(ge=1, le=10_000_000)] = 20_000
    """Trades of each symbol and day."""


_MarketTable = Literal["market.trades", "market.bars_1m", "market.bars", "market.instruments"]


class ArchiveFeedSettings(_FeedSettings):
    """Binance's public archive, by download or from a folder that mirrors it."""

    kind: Literal["binance_archive"] = "binance_archive"
    location: str = "https://data.binance.vision"
    """Address of the archive, or a folder that mirrors it."""
    venue: Literal["binance", "binance_usdm", "binance_coinm"] = "binance"
    """Spot, or futures margined in USDT or in coins."""
    symbols: tuple[str, ...]
    """Canonical symbols, such as `BTC-USDT`."""
    tables: tuple[_MarketTable, ...] = ("market.bars_1m",)
    """Tables that this feed fills; trades of large symbols are gigabytes a month."""
    interval: Literal["3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d"] = "1h"
    """Interval of the klines for `market.bars`."""
    trades: Literal["aggTrades", "trades"] = "aggTrades"
    """Which of the archive's two kinds of trades `market.trades` gets; they number the same trades differently."""


class CcxtFeedSettings(_FeedSettings):
    """An exchange's REST interface, through the ccxt library."""

    kind: Literal["ccxt"] = "ccxt"
    exchange: str
    """The name of the exchange in ccxt, such as `kraken`."""
    symbols: tuple[str, ...]
    """Canonical symbols, such as `BTC-EUR`."""
    tables: tuple[_MarketTable, ...] = ("market.bars_1m", "market.instruments")
    """Tables that this feed fills."""
    base_url: str | None = None
    """Another address than the exchange's own, such as a test network's."""
    api_key: SecretStr | None = None
    """Key of an account at the exchange; public data needs none."""
    api_secret: SecretStr | None = None
    """Its secret."""


FeedSettings = Annotated[
    SampleFeedSettings | SimulatedFeedSettings | ArchiveFeedSettings | CcxtFeedSettings, Field(discriminator="kind")
]


class Settings(BaseSettings):
    """All settings, with defaults that work from a fresh clone, offline.

    The text below each one is its documentation: `docs/settings.md` is made of it.
    """

    model_config = SettingsConfigDict(env_prefix="HFTHOT_", env_nested_delimiter="__", extra="forbid", frozen=True)

    hosts: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Number of hosts that run processes of this installation; with more than one, what they must share may not be on a
    disk of one of them, which is refused at start (`docs/scale.md`)."""
    lake_root: str = "data/lake"
    """Folder, `file://` URL or object-store URL of the lake."""
    users_root: Location | None = None
    """Folder or object-store URL of the user tables (users, sessions, API keys, usage, audit log), if they are to be
    apart from the lake: then the proof of an erasure does not read market data.  Choose it before the first account
    is made."""
    storage_options: dict[str, SecretStr] = Field(default_factory=dict)
    """Options of the object store: endpoint, region, credentials."""
    landing: Location = Path("data/landing")
    """Folder, or object-store URL, that is watched for files to ingest."""
    landing_settle_seconds: Annotated[float, Field(ge=0)] = 10.0
    """Seconds that a file must be unchanged before it is ingested, since it may still be being written."""
    feeds: tuple[FeedSettings, ...] = (SampleFeedSettings(), SimulatedFeedSettings())
    """Where data comes from on schedule; the kinds of feeds are below."""
    universe_size: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Number of symbols in the universe."""
    universe_window_days: Annotated[int, Field(ge=1, le=400)] = 30
    """Days of data that the universe's scores use."""
    stale_after_hours: Annotated[float, Field(gt=0)] = 36.0
    """Hours after which a table that a feed fills counts as stale."""
    notify: SecretStr = SecretStr("log")
    """Where incidents are sent besides `ops.incidents`: `log`, or a webhook URL that takes JSON."""
    sql_models: Path = Path("dbt_like_sql")
    """Folder of the SQL models; a relative path is looked up in the working folder, then in the repository."""
    duckdb_memory: str = "4GB"
    """Memory limit of DuckDB for trusted SQL; beyond it statements spill to `scratch`."""
    duckdb_threads: Annotated[int, Field(ge=1, le=256)] = 2
    """DuckDB threads for trusted SQL."""
    sql_workers: Annotated[int, Field(ge=1, le=64)] = 2
    """Statements that the SQL gateway runs at once, each in its own process."""
    sql_memory_mb: Annotated[int, Field(ge=64, le=65_536)] = 1024
    """Memory limit in MiB of a statement in the SQL gateway."""
    sql_deadline_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Seconds after which a statement in the SQL gateway is stopped."""
    file_cache_gib: Annotated[float, Field(gt=0, le=100_000)] = 8.0
    """GiB of data files of an object store that are kept in `scratch` for the SQL gateway, whose workers have no
    network."""
    scratch: Path = Path("data/scratch")
    """Folder for spilling and downloads."""
    accounts: Path = Path("data/accounts")
    """Folder of the operational store (users, keys, counters), never inside the lake.

    Unless they are set, it, the keys, the exports and the certificates are next to a local lake; accounts and keys are
    in `data` otherwise, and exports, certificates and reports on the object store next to the lake."""
    accounts_url: SecretStr | None = None
    """URL of a PostgreSQL database for the operational store (`postgresql+psycopg://...`); SQLite in `accounts`
    otherwise."""
    key_source: Literal["file", "environment", "keyring"] = "file"
    """Where the key-encryption keys come from: a file (created with mode 0600 if absent), the environment variable
    HFTHOT_KEYS, or the system's keyring."""
    key_file: Path = Path("data/keys/kek.json")
    """The file of the key-encryption keys, if they come from a file."""
    keys: SecretStr | None = None
    """The key-encryption keys, if they come from the environment: `id:base64` pairs, comma-separated, the newest
    first."""
    exports: Location = Path("data/exports")
    """Folder, or object-store URL, of exported personal data."""
    certificates: Location = Path("data/certificates")
    """Folder, or object-store URL, of erasure certificates."""
    reports: Location | None = None
    """Folder, or object-store URL, of result pages and pictures; unless it is set, `reports` next to `scratch`, or next
    to a lake on an object store."""
    reports_url: str | None = None
    """Address below which browsers read `reports`, if those are on an object store; links in the UI then lead there."""
    dagster_home: Path | None = None
    """Folder of the Dagster instance, which the proof of an erasure searches; Dagster itself
    reads DAGSTER_HOME, which is also the default here."""
    orchestration: Orchestration = "one_host"
    """How Dagster starts runs: processes of this host, the same with Dagster's storage on PostgreSQL, jobs of a Ray
    cluster, or pods of Kubernetes. `hfthot dagster-config` makes the instance's configuration."""
    event_log_days: Annotated[int, Field(ge=7, le=3650)] = 30
    """Days after which the events of an ended run leave Dagster's event log; materialisations, observations and checks
    of assets stay."""
    picture_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """Days for which pictures of materialisations are kept in `reports`."""
    compute: Literal["in_process", "pool", "ray"] = "in_process"
    """Where units of work of models and bars are computed: in the run's own process, in processes of its host, or on a
    Ray cluster. The rows are the same."""
    compute_workers: Annotated[int, Field(ge=1, le=10_000)] = 2
    """Units of work that are computed at once."""
    ray_address: str = "auto"
    """Address of the Ray cluster for units of work (`auto`: the one that this process runs on)."""
    erasure_proof_days: Annotated[int, Field(ge=1, le=30)] = 30
    """Days for which the values that a failed proof searched for are kept, encrypted, so that the proof can be
    repeated; then they are destroyed."""
    argon2_memory_kib: Annotated[int, Field(ge=8, le=4_194_304)] = 65_536
    """Memory in KiB of a password hash (Argon2id; the defaults are RFC 9106's second recommendation)."""
    argon2_passes: Annotated[int, Field(ge=1, le=100)] = 3
    """Passes of a password hash."""
    argon2_lanes: Annotated[int, Field(ge=1, le=64)] = 4
    """Lanes of a password hash."""
    session_hours: Annotated[float, Field(gt=0, le=24 * 365)] = 24.0
    """Hours after which a session ends."""
    login_failures: Annotated[int, Field(ge=1, le=1000)] = 5
    """Failed sign-ins of an account or address within the window, after which sign-ins are refused until it ends."""
    login_window_minutes: Annotated[float, Field(gt=0, le=24 * 60)] = 15.0
    """Length of that window in minutes."""
    approve_registrations: bool = False
    """Whether a registration needs `approve_user` before its first sign-in."""
    user_event_wait_hours: Annotated[float, Field(ge=0, le=24 * 365)] = 24.0
    """Hours for which events of a file in `<landing>/users` wait for the registration that they belong to."""
    user_file_days: Annotated[int, Field(ge=0, le=365)] = 0
    """Days for which such a file, which contains personal data in plain text, is kept after it was ingested; 0 deletes
    it at once."""
    audit_retention_days: Annotated[int, Field(ge=1, le=3650)] = 90
    """Days for which the audit log keeps its rows."""
    session_retention_days: Annotated[int, Field(ge=1, le=3650)] = 180
    """Days for which ended sessions are kept."""
    soft_delete_days: Annotated[int, Field(ge=0, le=365)] = 30
    """Days for which a deleted account can be restored; then it is erased for good."""
    export_retention_days: Annotated[int, Field(ge=0, le=365)] = 7
    """Days for which exported personal data is kept."""
    quarantine_retention_days: Annotated[int, Field(ge=1, le=3650)] = 365
    """Days for which quarantined rows are kept."""

    #: Names of the settings that the caller gave as arguments, rather than environment or file.
    _given: frozenset[str] = PrivateAttr(default=frozenset())

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._given = frozenset(given)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take arguments first, then the environment, then the TOML file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, _config_file())

    @field_validator("lake_root", *_PLACES, mode="before")
    @classmethod
    def _place(cls, given: object) -> object:
        """Take `~` for the home folder, as shells do, and no empty path, which would be the working folder."""
        if given is None or not isinstance(given, str | Path):
            return given
        if not str(given).strip():
            raise ValueError("it is empty; name a location, or omit the setting")
        if not str(given).startswith("~"):
            return given
        home = _at_home(str(given))
        if home.startswith("~"):
            raise ValueError("its home folder is not known; write the full path")
        return type(given)(home)

    @model_validator(mode="before")
    @classmethod
    def _next_to_the_lake(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Put the folders of personal data next to a local lake, unless they are set: one lake, its own accounts."""
        root = str(given.get("lake_root", cls.model_fields["lake_root"].default))
        folder = _local(root)
        if folder is None:
            shared = ("exports", "certificates", "reports")
            return {name: _beside_url(root, name) for name in shared} | given
        beside = folder.parent
        places = {
            "accounts": beside / "accounts",
            "key_file": beside / "keys" / "kek.json",
            "exports": beside / "exports",
            "certificates": beside / "certificates",
        }
        return places | given

    def plain_storage_options(self) -> dict[str, str]:
        """Return the storage options in clear, for the storage layer alone."""
        return {name: value.get_secret_value() for name, value in self.storage_options.items()}

    @property
    def names_places(self) -> bool:
        """Whether the caller itself named lake and accounts, by absolute paths or URLs.

        Then new accounts with new keys may be made there without a further word; never where a working folder, the
        environment or a file decided on the place.
        """
        lake = self.lake_folder()
        accounts = "accounts" in self._given and self.accounts.is_absolute()
        database = "accounts_url" in self._given and self.accounts_url is not None
        return "lake_root" in self._given and (lake is None or lake.is_absolute()) and (accounts or database)

    def dagster_folder(self) -> Path | None:
        """Return the folder of the Dagster instance, or None where neither the setting nor DAGSTER_HOME names one."""
        return self.dagster_home or dagster_home()

    def lake_folder(self) -> Path | None:
        """Return the lake's folder, or None if it is on an object store."""
        return _local(self.lake_root)


def _local(root: str) -> Path | None:
    url = urlparse(root)
    if url.scheme == "file":
        return Path(unquote(url.path))
    return None if len(url.scheme) > 1 else Path(_at_home(root))


def _beside_url(root: str, name: str) -> str:
    """Return the URL of a folder next to the lake; one in a bucket of its own gets a name that no table has."""
    parts = urlparse(root.rstrip("/"))
    above, _, last = parts.path.rpartition("/")
    return parts._replace(path=f"{above}/{name}" if last else f"/_{name}").geturl()


def _at_home(path: str) -> str:
    """Put the home folder for `~`; what no home is known for stays as it is (`pathlib` raises)."""
    return os.path.expanduser(path)  # noqa: PTH111 - said above


def load_settings(**overrides: object) -> Settings:
    """Read the settings.

    Raises:
        ConfigError: a setting is malformed or unknown; the message names it, its file and line, never its value.
    """
    _refuse_unknown_variables()
    _refuse_no_file()
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise _malformed(error, overrides) from None
    except SettingsError as error:
        # The library names the field and never quotes its value.
        field = re.search(r'field "(\w+)"', str(error))
        name = f"HFTHOT_{field.group(1).upper()}" if field else "HFTHOT_..."
        raise ConfigError(
            "the value is not valid JSON",
            where=f"setting {name}",
            hint="In the environment, lists and tables are written as JSON.",
        ) from None
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"at line (\d+)", str(error))
        place = f"{_config_file().absolute()}:{at.group(1)}" if at else f"{_config_file().absolute()}"
        raise ConfigError("the file is not valid TOML", where=place, hint="Correct its syntax.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the settings cannot be read ({type(error).__name__})",
            where=f"{_config_file().absolute()}",
            hint="Check that it is a readable text file in UTF-8.",
        ) from None


def _config_file() -> Path:
    return Path(os.environ.get("HFTHOT_CONFIG", "hfthot.toml"))


def _refuse_no_file() -> None:
    """Refuse a named file that is not there: the defaults in its place would be another installation."""
    file = _config_file()
    if file.is_file() or not (file.exists() or os.environ.get("HFTHOT_CONFIG") is not None):
        return
    raise ConfigError(
        f"the settings file {str(file.absolute())!r} {'is not a file' if file.exists() else 'does not exist'}",
        where="HFTHOT_CONFIG in the environment" if "HFTHOT_CONFIG" in os.environ else f"{file.absolute()}",
        hint="Name an existing file, or unset the variable." if "HFTHOT_CONFIG" in os.environ else "Move it away.",
    )


def _refuse_unknown_variables() -> None:
    known = {f"HFTHOT_{name.upper()}" for name in Settings.model_fields}
    for variable in sorted(name for name in os.environ if name.upper().startswith("HFTHOT_")):
        name = variable.upper().split("__")[0]
        if name in known or name.removeprefix("HFTHOT_").startswith(_NO_SETTINGS):
            continue
        raise ConfigError(
            f"there is no setting named {variable}",
            where="environment",
            hint=nearest(name, sorted(known)) or "`docs/settings.md` lists all of them.",
        )


def _malformed(error: ValidationError, overrides: Mapping[str, object]) -> ConfigError:
    """Say which setting is wrong and where it was given; never with what."""
    errors = error.errors(include_input=False, include_url=False)
    # A misspelt key may also be a missing one: the misspelling is what to correct.
    first = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
    path = first["loc"]
    name = ".".join(str(part) for part in path)
    unknown = first["type"] == "extra_forbidden"
    message = first["msg"].removeprefix("Value error, ")
    what = f"there is no setting {name!r}" if unknown else f"setting {name!r}: {message}"
    # Not `hfthot settings`: it reads the settings too, and ends with this same error.
    hint = "`docs/settings.md` lists all settings with their meanings and defaults."
    if unknown and len(path) == 1:
        hint = nearest(str(path[0]), Settings.model_fields) or hint
    variable = f"HFTHOT_{str(path[0]).upper()}" if path else ""
    if path and path[0] in overrides:
        return ConfigError(what, where="argument", hint=hint)
    given = next((name for name in os.environ if name.upper().split("__")[0] == variable), None)
    if given is not None:
        return ConfigError(what, where=f"{given} in the environment", hint=hint)
    line = _line_of(_config_file(), path)
    return ConfigError(what, where=f"{_config_file().absolute()}{f':{line}' if line else ''}", hint=hint)


def _line_of(file: Path, path: Sequence[str | int]) -> int | None:
    """Return the line of a TOML file that sets what the path of keys leads to, or the closest that is above it."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    wanted = [str(part) for part in path]
    table: list[str] = []
    counts: dict[str, int] = {}
    best: tuple[int, int | None] = (0, None)
    for number, line in enumerate(lines, 1):
        if header := re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]", line):
            table = [part.strip(" \"'") for part in header.group(2).split(".")]
            if header.group(1) == "[[":
                name = header.group(2)
                counts[name] = counts.get(name, -1) + 1
                table.append(str(counts[name]))
            here = table
        elif key := re.match(r"\s*([\w\-\"'.]+)\s*=", line):
            here = [*table, *(part.strip(" \"'") for part in key.group(1).split("."))]
        else:
            continue
        if here[: len(wanted)] == wanted:
            return number
        # The path also holds the kind by which one of several models was chosen; no file has that as a key.
        steps = iter(wanted)
        if all(part in steps for part in here) and len(here) > best[0]:
            best = len(here), number
    return best[1]


@dataclass(frozen=True)
class Setting:
    """A setting in force: its name, its value as it may be shown, and where the value came from."""

    name: str
    value: str
    source: str


def effective(settings: Settings) -> list[Setting]:
    """Return all settings in force, in their declared order; secrets are masked, local places absolute."""
    try:
        in_file = tomllib.loads(_config_file().read_text(encoding="utf-8"))
    except OSError:
        in_file = {}
    variables = {variable.upper().split("__")[0]: variable for variable in os.environ}
    found = []
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if name in settings._given:  # noqa: SLF001 - of this module
            source = "argument"
        elif (variable := variables.get(f"HFTHOT_{name.upper()}")) is not None:
            source = variable
        elif name in in_file:
            line = _line_of(_config_file(), [name])
            source = f"{_config_file()}{f':{line}' if line else ''}"
        else:
            moved = isinstance(value, Path) and value != field.default
            source = "next to the lake" if moved else "default"
        folder = settings.lake_folder() if name == "lake_root" else value
        known = name == "notify" and source == "default"
        text = (
            str(folder.absolute())
            if isinstance(folder, Path) and name != "sql_models"
            else _shown(value, masked=not known)
        )
        found.append(Setting(name, text, source))
    return found


def _shown(value: Any, *, masked: bool) -> str:
    if isinstance(value, SecretStr):
        return "**********" if masked else value.get_secret_value()
    if isinstance(value, BaseModel | Mapping | tuple):
        return json.dumps(_plain(value))
    return "-" if value is None else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return "**********" if isinstance(value, SecretStr) else value


def ready_landing(settings: Settings) -> Location:
    """Make the landing folder if it is not there, and return it; an object store needs none.

    Raises:
        ConfigError: it is a file, or cannot be made.
    """
    landing = settings.landing
    return landing if isinstance(landing, str) else made_folder(landing.absolute(), "landing")


def dagster_home() -> Path | None:
    """Return the folder of the Dagster instance, or None where Dagster's own variable DAGSTER_HOME is not set."""
    home = os.environ.get("DAGSTER_HOME")
    return Path(home) if home else None
