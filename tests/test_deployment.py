"""`deploy/` by what checks it without a network, and that each check finds a fault."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pydantic
import pytest
import yaml
from compose_spec import ComposeSpecification

from resources.instance import instance_yaml
from tests.conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
MANIFESTS = sorted((DEPLOY / "k8s").glob("*.yaml"))
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)


def tool(name: str) -> Path:
    return Path(sys.executable).with_name(name)


def manifests() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        yield from (found for found in yaml.safe_load_all(path.read_text()) if found and "kind" in found)


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for manifest in manifests():
        if manifest["kind"] in {"Deployment", "Job"}:
            yield manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]


def named(kind: str, name: str) -> dict[str, Any]:
    return next(found for found in manifests() if (found["kind"], found["metadata"]["name"]) == (kind, name))


def hadolint(path: Path) -> list[str]:
    done = run(tool("hadolint"), "--format", "json", path)
    return [finding["code"] for finding in json.loads(done.stdout)]


def test_hadolint_finds_nothing_in_the_image():
    assert hadolint(DEPLOY / "Dockerfile") == []


def test_hadolint_finds_an_image_that_is_not_pinned_and_a_download_that_is_kept(tmp_path):
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python:latest\nRUN pip install dagster\n")

    assert {"DL3007", "DL3013", "DL3042"} <= set(hadolint(bad))


def test_the_image_is_installed_from_hashes_and_runs_as_nobody_of_the_host():
    text = (DEPLOY / "Dockerfile").read_text()

    installs = [line for line in text.splitlines() if re.search(r"pip install", line)]
    assert installs
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs)
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001:10001", "10001:10001"]
    assert re.search(r"^ARG BASE=\S+@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert "HEALTHCHECK" in text


def test_all_that_the_image_copies_is_there_and_nothing_else_is_sent():
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()

    assert "*" in lines
    assert all((REPOSITORY / line[1:]).exists() for line in lines if line.startswith("!"))


def compose_lint(path: Path) -> list[tuple[str, str]]:
    done = run(tool("compose-lint"), "check", "--format", "json", path)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    rows = found["findings"] if isinstance(found, dict) else found
    return [(row.get("rule_id") or row["rule"], row["service"]) for row in rows]


def test_the_compose_file_fits_the_schema_and_is_hardened():
    ComposeSpecification.model_validate(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))

    # The platform's own image has a digest only when it was pushed: HFTHOT_IMAGE then names it.
    assert {rule for rule, _ in compose_lint(DEPLOY / "compose.yaml")} <= {"CL-0019"}
    assert not {"postgres", "store", "buckets"} & {service for _, service in compose_lint(DEPLOY / "compose.yaml")}


@pytest.mark.parametrize(
    ("good", "bad", "rule"),
    [
        ("cap_drop: [ALL]", "cap_add: [SYS_ADMIN]", "CL-0006"),
        ('security_opt: ["no-new-privileges:true"]', "privileged: true", "CL-0002"),
        ("127.0.0.1:3000:3000", "3000:3000", "CL-0005"),
    ],
)
def test_a_fault_in_the_compose_file_is_found(tmp_path, good, bad, rule):
    text = (DEPLOY / "compose.yaml").read_text()
    path = tmp_path / "compose.yaml"
    path.write_text(text.replace(good, bad))

    assert good in text
    assert rule in {found for found, _ in compose_lint(path)}


def test_a_wrong_type_in_the_compose_file_is_found():
    document = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    document["services"]["code"]["cap_drop"] = {"ALL": True}

    with pytest.raises(pydantic.ValidationError, match="cap_drop"):
        ComposeSpecification.model_validate(document)


def test_each_service_has_limits_a_health_check_and_no_secret_in_its_environment():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]

    for name, service in services.items():
        limits = service["deploy"]["resources"]["limits"]
        assert {"cpus", "memory"} <= limits.keys(), name
        assert "healthcheck" in service, name
        assert service["read_only"], name
        secret = [key for key in service.get("environment", {}) if re.search(r"PASSWORD$|SECRET|KEYS$|_URL$", key)]
        assert secret in ([], ["AWS_ENDPOINT_URL"]), name
    assert "HFTHOT_KEYS" not in services["webserver"]["secrets"]


def test_every_manifest_fits_the_schema_of_kubernetes():
    checked = [
        manifest["kind"]
        for manifest in manifests()
        if manifest["kind"] != "Kustomization"
        and kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True) is not None
    ]

    assert {"Deployment", "Job", "NetworkPolicy", "PodDisruptionBudget", "Role", "Service"} <= set(checked)


def test_a_wrong_type_and_an_unknown_field_in_a_manifest_are_found():
    wrong, unknown = named("Deployment", "daemon"), named("Deployment", "daemon")
    wrong["spec"]["replicas"] = "one"
    unknown["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}

    for manifest in (wrong, unknown):
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_there_is_one_daemon_and_never_two_during_an_update():
    spec = named("Deployment", "daemon")["spec"]

    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_pods_are_not_root_write_to_bounded_folders_and_reach_the_cluster_only_to_launch():
    found = dict(pods())

    assert found.keys() == {"code", "daemon", "migrate", "webserver"}
    for name, pod in found.items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["automountServiceAccountToken"] is (name in {"daemon", "webserver"}), name
        assert all("sizeLimit" in volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume), name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"], name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert "memory" in container["resources"]["limits"], name


def test_the_pods_of_runs_are_as_closed_as_the_others():
    code = dict(pods())["code"]["containers"][0]
    context = json.loads(next(entry["value"] for entry in code["env"] if entry["name"] == "DAGSTER_CONTAINER_CONTEXT"))
    given = context["k8s"]["run_k8s_config"]

    assert given["container_config"]["security_context"]["read_only_root_filesystem"]
    assert given["pod_spec_config"]["automount_service_account_token"] is False
    assert all("size_limit" in volume["empty_dir"] for volume in given["pod_spec_config"]["volumes"])


def test_no_manifest_holds_a_secret():
    assert not [manifest for manifest in manifests() if manifest["kind"] == "Secret"]
    for path in [
        path for path in DEPLOY.rglob("*") if path.is_file() and "secrets" not in path.relative_to(DEPLOY).parts
    ]:
        text = path.read_text()
        assert not re.search(
            r"(?i)(password|secret_access_key|hfthot_keys)\s*[=:]\s*['\"]?[A-Za-z0-9+][A-Za-z0-9+/]{7,}", text
        ), path


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_puts_the_manifests_together():
    done = run("kubectl", "kustomize", DEPLOY / "k8s", env=os.environ | {"KUBECONFIG": os.devnull})

    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert {manifest["metadata"].get("namespace", "hfthot") for manifest in built} == {"hfthot"}
    for manifest in built:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize(
    ("file", "orchestration"), [("dagster-postgres.yaml", "postgres"), ("k8s/dagster.yaml", "kubernetes")]
)
def test_dagsters_configuration_is_what_the_command_prints(file, orchestration):
    assert yaml.safe_load((DEPLOY / file).read_text()) == yaml.safe_load(instance_yaml(orchestration))


def test_ray_runs_the_version_of_the_lock_with_tokens_and_no_work_on_its_head():
    cluster = next(iter(yaml.safe_load_all((DEPLOY / "ray" / "raycluster.yaml").read_text())))
    locked = re.search(
        r"^ray(?:\[default\])?==([\d.]+)", (REPOSITORY / "requirements-ray.lock").read_text(), re.MULTILINE
    )

    assert locked is not None
    assert cluster["spec"]["rayVersion"] == locked.group(1)
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    assert cluster["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def verify_units(folder: Path) -> str:
    done = run("systemd-analyze", "verify", *sorted(folder.glob("*.service")))
    return "\n".join(line for line in done.stderr.splitlines() if "not executable" not in line and "hfthot" in line)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_units_and_finds_a_fault(tmp_path):
    for unit in UNITS:
        text = unit.read_text().replace("/opt/hfthot/app/deploy/with-secrets", str(DEPLOY / "with-secrets"))
        (tmp_path / unit.name).write_text(text)
    assert verify_units(tmp_path) == ""

    broken = tmp_path / UNITS[0].name
    broken.write_text(broken.read_text().replace("NoNewPrivileges=yes", "NoNewPrivilege=yes"))
    assert "NoNewPrivilege" in verify_units(tmp_path)


def test_units_are_closed():
    assert len(UNITS) == 3
    for unit in UNITS:
        text = unit.read_text()
        assert all(
            line in text.splitlines() for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "User=hfthot")
        ), unit


def test_files_of_secrets_become_variables_of_the_command_only(tmp_path):
    (tmp_path / "HFTHOT_KEYS").write_text("k1:a b$c\n")
    (tmp_path / "s3.json").write_text("{}")
    environment = {"PATH": os.environ["PATH"], "CREDENTIALS_DIRECTORY": str(tmp_path)}

    done = run(DEPLOY / "with-secrets", "sh", "-c", 'printf %s "$HFTHOT_KEYS"; env | grep -c s3', env=environment)

    assert done.stdout == "k1:a b$c0\n"


def test_secrets_are_made_once_in_a_folder_of_their_owner(tmp_path):
    folder = tmp_path / "secrets"
    declared = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["secrets"]

    assert run(DEPLOY / "make-secrets", folder).returncode == 0
    made = {path.name: path.read_text() for path in folder.iterdir()}
    assert made.keys() == declared.keys()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert json.loads(made["HFTHOT_STORAGE_OPTIONS"])["AWS_SECRET_ACCESS_KEY"] == made["AWS_SECRET_ACCESS_KEY"]
    assert run(DEPLOY / "make-secrets", folder).returncode == 1
    assert {path.name: path.read_text() for path in folder.iterdir()} == made
