"""The Dagster instance: its configuration for one host, PostgreSQL, Ray and Kubernetes, and what is wrong with one.

A configuration is the repository's `dagster_home/dagster.yaml` with the parts that differ past one host.  It holds no
secret and no address: those are `{env: NAME}`, read by Dagster where it runs.  What does not belong here: runs
(`runs`), and anything that needs Dagster itself to be imported, since the doctor and the command line read this.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from hfthot_platform.app.findings import Finding
from hfthot_platform.core.documents import load_yaml
from hfthot_platform.core.settings import Orchestration

__all__ = ["diagnose_instance", "instance_config", "instance_yaml"]

_REPOSITORY: Final = Path(__file__).resolve().parents[1]
#: With `postgresql://` SQLAlchemy 2.1 takes psycopg 3, which cannot bind the parameters of Dagster's NOTIFY.
_SCHEME: Final = "postgresql+psycopg2"
_LAUNCHERS: Final = {"RayRunLauncher": "ray", "K8sRunLauncher": "kubernetes"}
_EXTRAS: Final = {"dagster_ray": "ray", "dagster_k8s": "k8s", "dagster_postgres": "postgres", "dagster_aws": "postgres"}
_STORAGES: Final = ("run_storage", "event_log_storage", "schedule_storage")
_SECRET: Final = re.compile(
    r"PASSWORD|SECRET|TOKEN|KEYS?$|KEYS?=|STORAGE_OPTIONS|ACCOUNTS_URL|PASSWORD=", re.IGNORECASE
)
_SECRET_FIELDS: Final = ("password", "postgres_url", "token")
#: Runs at once where more than one host runs them; on one host the base configuration says how many.
_CLUSTER_RUNS: Final = 32


def _env(name: str) -> dict[str, str]:
    return {"env": name}


def instance_config(orchestration: Orchestration) -> dict[str, Any]:
    """Return the configuration of the Dagster instance for a way of running it.

    Args:
        orchestration: `one_host` (SQLite, processes of this host), `postgres` (the same with Dagster's storage on
            PostgreSQL and logs on the object store), `ray` (one Ray job a run) or `kubernetes` (one pod a run).
    """
    file = _REPOSITORY / "dagster_home" / "dagster.yaml"
    config: dict[str, Any] = load_yaml(file.read_text(encoding="utf-8"), where=str(file))
    if orchestration == "one_host":
        return config
    config["storage"] = {
        "postgres": {
            "postgres_db": {
                "hostname": _env("DAGSTER_POSTGRES_HOST"),
                "port": _env("DAGSTER_POSTGRES_PORT"),
                "username": _env("DAGSTER_POSTGRES_USER"),
                "password": _env("DAGSTER_POSTGRES_PASSWORD"),
                "db_name": _env("DAGSTER_POSTGRES_DB"),
                "scheme": _SCHEME,
            }
        }
    }
    config["run_coordinator"] = {"module": "dagster.core.run_coordinator", "class": "QueuedRunCoordinator"}
    # Endpoint, region and credentials are AWS's own variables: AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, ...
    config["compute_logs"] = {
        "module": "dagster_aws.s3.compute_log_manager",
        "class": "S3ComputeLogManager",
        "config": {
            "bucket": _env("DAGSTER_LOGS_BUCKET"),
            "prefix": "compute-logs",
            "skip_empty_files": True,
            "upload_interval": 60,
        },
    }
    if orchestration == "postgres":
        return config
    # The code server of a lost host takes none of its runs with it: each is resumed once by another worker, and
    # finds what it had committed (`changed=False`).
    config["run_monitoring"] |= {"max_resume_run_attempts": 1, "poll_interval_seconds": 10}
    # A pod or job may wait for a node.
    config["run_monitoring"]["start_timeout_seconds"] = 600
    config["concurrency"]["runs"] = {"max_concurrent_runs": _CLUSTER_RUNS}
    config["run_launcher"] = _ray_launcher() if orchestration == "ray" else _kubernetes_launcher()
    return config


def _ray_launcher() -> dict[str, Any]:
    # What a run needs of the environment its node has: variables named here are shown on Ray's dashboard.
    return {
        "module": "dagster_ray",
        "class": "RayRunLauncher",
        "config": {"ray": {"address": _env("DAGSTER_RAY_ADDRESS"), "num_cpus": 1, "env_vars": ["DAGSTER_HOME"]}},
    }


def _kubernetes_launcher() -> dict[str, Any]:
    return {
        "module": "dagster_k8s",
        "class": "K8sRunLauncher",
        "config": {
            "job_image": _env("DAGSTER_K8S_IMAGE"),
            "job_namespace": _env("DAGSTER_K8S_NAMESPACE"),
            "service_account_name": _env("DAGSTER_K8S_SERVICE_ACCOUNT"),
            "instance_config_map": _env("DAGSTER_K8S_INSTANCE_CONFIG_MAP"),
            "dagster_home": _env("DAGSTER_HOME"),
            "env_config_maps": [_env("DAGSTER_K8S_ENV_CONFIG_MAP")],
            "env_secrets": [_env("DAGSTER_K8S_ENV_SECRET")],
            "run_k8s_config": {
                "job_spec_config": {"ttl_seconds_after_finished": 86_400},
                "pod_spec_config": {"automount_service_account_token": False},
            },
        },
    }


def instance_yaml(orchestration: Orchestration) -> str:
    """Return that configuration as the text of a `dagster.yaml`."""
    import yaml

    text = yaml.safe_dump(instance_config(orchestration), sort_keys=False, allow_unicode=True)
    return (
        f"# Made by `hfthot dagster-config {orchestration}`; docs/orchestration.md says what the variables are.\n{text}"
    )


# -- what is wrong with one ---------------------------------------------------------------------------------------


def diagnose_instance(
    config: Mapping[str, Any],
    orchestration: Orchestration,
    environment: Mapping[str, str],
    *,
    file: Path,
    workspace: Path = _REPOSITORY / "workspace.yaml",
) -> Iterator[Finding]:
    """Tell what of an instance's configuration fails, or loses runs, once it is used; no value of it is quoted.

    Args:
        config: the content of `dagster.yaml`.
        orchestration: what the settings say.
        environment: the variables of the processes of Dagster, which this command is started with too.
        file: where the configuration is.
        workspace: the file that names the code location.
    """
    launcher = str(_section(config, "run_launcher").get("class", ""))
    chosen = _LAUNCHERS.get(launcher, "one_host")
    remake = f"`hfthot dagster-config {orchestration} > {file}`"
    if chosen != (orchestration if orchestration in _LAUNCHERS.values() else "one_host"):
        what = f"the setting `orchestration` is {orchestration}, but the run launcher in {file} is for {chosen}"
        yield Finding("error", "dagster", what, f"{remake}, or correct HFTHOT_ORCHESTRATION.")
    yield from _missing_packages(config)
    yield from _storage(config, remake)
    for name in sorted(_variables(config)):
        if not environment.get(name):
            what = f"{file} reads the environment variable {name}, which is not set"
            yield Finding("error", "dagster", what, f"Set {name} for every process of Dagster, on every host.")
    if chosen == "one_host":
        return
    yield from _shared_parts(config, remake)
    yield from _workspace(workspace)
    if chosen == "ray":
        yield from _ray(config, environment)


def _missing_packages(config: Mapping[str, Any]) -> Iterator[Finding]:
    named = {str(value).split(".")[0] for path, value in _leaves(config) if path.endswith(".module")}
    if "postgres" in _section(config, "storage"):
        named.add("dagster_postgres")
    for package, extra in _EXTRAS.items():
        if package in named and importlib.util.find_spec(package) is None:
            yield Finding("error", "dagster", f"the package {package} is not installed", f"`make setup-{extra}`")


def _storage(config: Mapping[str, Any], remake: str) -> Iterator[Finding]:
    """Tell of PostgreSQL storages that fail at the first event of a run, and of passwords in the file."""
    places = {"storage.postgres": _section(_section(config, "storage"), "postgres")}
    for name in _STORAGES:
        part = _section(config, name)
        if str(part.get("module", "")).startswith("dagster_postgres"):
            places[name] = _section(part, "config")
    for place, part in places.items():
        if not part:
            continue
        url, database = part.get("postgres_url"), _section(part, "postgres_db")
        scheme = url.partition("://")[0] if isinstance(url, str) else database.get("scheme", "postgresql")
        if not isinstance(url, Mapping) and scheme != _SCHEME:
            what = f"{place} uses the scheme {scheme}, with which every run fails at its first event"
            yield Finding("error", "dagster", what, f"Set `scheme: {_SCHEME}` in `postgres_db`; or {remake}.")
    for path, value in _leaves(config):
        if path.rpartition(".")[2] in _SECRET_FIELDS and isinstance(value, str) and value:
            what = f"{path} is written in the file, and Dagster hands it to every run on the command line"
            yield Finding("warn", "dagster", what, "Write `{env: NAME}` and set the variable.")


def _shared_parts(config: Mapping[str, Any], remake: str) -> Iterator[Finding]:
    """Tell of parts that a run on another host does not share, and of runs that are lost with their host."""
    postgres = "postgres" in _section(config, "storage") or all(
        str(_section(config, name).get("module", "")).startswith("dagster_postgres") for name in _STORAGES
    )
    if not postgres:
        what = "runs start on other hosts, but Dagster's storage is in files of this one"
        yield Finding("error", "dagster", what, f"Keep it on PostgreSQL: {remake}.")
    if not _section(config, "compute_logs"):
        what = "runs start on other hosts, but what they print is kept in files of each"
        yield Finding("warn", "dagster", what, f"Keep it on the object store: {remake}.")
    monitoring = _section(config, "run_monitoring")
    if monitoring.get("enabled") is not True or not monitoring.get("max_resume_run_attempts"):
        what = "a run whose host dies is not resumed: run monitoring is off, or has no `max_resume_run_attempts`"
        yield Finding("error", "dagster", what, f"Set `max_resume_run_attempts: 1` in `run_monitoring`; or {remake}.")


def _workspace(workspace: Path) -> Iterator[Finding]:
    """Tell of code that is named by a relative file, which is looked up in another host's working folder."""
    if not workspace.is_file():
        return
    content = load_yaml(workspace.read_text(encoding="utf-8"), where=str(workspace)) or {}
    for location in content.get("load_from", []):
        named = location.get("python_file") if isinstance(location, Mapping) else None
        path = named.get("relative_path") if isinstance(named, Mapping) else named
        if isinstance(path, str) and not Path(path).is_absolute():
            what = f"{workspace} loads the code from the relative file {path}, which other hosts do not find"
            yield Finding("error", "dagster", what, "Name the module: `python_module: hfthot_platform.definitions`.")


def _ray(config: Mapping[str, Any], environment: Mapping[str, str]) -> Iterator[Finding]:
    # The launcher puts the configuration into single quotes on a command line, and escapes nothing.
    for path, value in _leaves(config):
        if isinstance(value, str) and (not value or "'" in value):
            what = f"{path} {'has a single quote' if value else 'is empty'}, which breaks the command that starts a run"
            yield Finding("error", "dagster", what, "Write `{env: NAME}` and set the variable, or leave the field out.")
    if shutil.which("dagster", path=environment.get("PATH", "")) is None:
        what = (
            "`dagster` is not on the PATH, so a Ray node that is started like this cannot start a run (exit code 127)"
        )
        yield Finding("error", "ray", what, "Put the environment's `bin` folder on the PATH of every Ray node.")
    if environment.get("RAY_AUTH_MODE", "").lower() != "token":
        what = "Ray's token authentication is off: whoever reaches the cluster runs code on it"
        step = "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, on every node and for Dagster."
        yield Finding("error", "ray", what, step)
    elif not (environment.get("RAY_AUTH_TOKEN") or environment.get("RAY_AUTH_TOKEN_PATH")):
        home = Path(environment.get("HOME", "/")) / ".ray" / "auth_token"
        if not home.is_file():
            what = f"Ray's token authentication is on, but there is no token in the environment or in {home}"
            yield Finding("error", "ray", what, "Set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file with mode 0600.")
    launcher = _section(_section(_section(config, "run_launcher"), "config"), "ray")
    passed = [str(name) for name in launcher.get("env_vars") or ()]
    shown = sorted({name.partition("=")[0] for name in passed if _SECRET.search(name)})
    if shown:
        what = f"`env_vars` of the run launcher names {', '.join(shown)}, which Ray's dashboard then shows"
        yield Finding("error", "ray", what, "Set secrets in the environment of the Ray nodes instead.")


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the paths and values of a document, such as `storage.postgres.postgres_db.password`."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _leaves(part, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _leaves(part, f"{path}.{number}")
    else:
        yield path, value


def _variables(config: Mapping[str, Any]) -> set[str]:
    """Return the names of the environment variables that a configuration reads."""
    return {str(value) for path, value in _leaves(config) if path.endswith(".env")}
