"""The Makefile, as make itself expands it: folders with blanks, a closed home folder, another port."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture
def clone(tmp_path) -> Path:
    folder = tmp_path / "a folder with blanks"
    folder.mkdir()
    for name in ("Makefile", "requirements.lock", "requirements-bootstrap.lock", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, folder)
    return folder


def make(folder: Path, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


def test_help_lists_the_targets_whatever_the_folder_is_called(clone):
    assert "make demo " in make(clone, "help")


def test_the_environment_is_named_in_quotes(clone):
    said = make(clone, "-n", "setup", PYTHON="/opt/my python/bin/python3")

    assert f'VIRTUAL_ENV="{clone}/.venv" ' in said
    assert '"/opt/my python/bin/python3" -m venv' in said


def test_the_port_of_the_ui_can_be_chosen_and_the_installation_is_made_first(clone):
    said = make(clone, "-n", "dev", "PORT=3100")

    assert '--port "3100"' in said
    assert said.index("hfthot init") < said.index("dagster dev")


@pytest.mark.parametrize("home", ["/proc/nobody", ""])
def test_without_a_usable_home_folder_caches_lie_in_the_data_folder(clone, home):
    shown = "include Makefile\nshow:\n\t@echo $$HOME $$UV_CACHE_DIR\n"
    (clone / "show.mk").write_text(shown)

    assert make(clone, "-f", "show.mk", "show", HOME=home).split(" /") == [
        f"{clone}/data/home",
        f"{clone}/data/home/uv\n".removeprefix("/"),
    ]
    assert (clone / "data/home").is_dir()


def pinned(name: str) -> dict[str, str]:
    text = (REPOSITORY / name).read_text()
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, flags=re.MULTILINE))


@pytest.mark.parametrize("extra", ["postgres", "ray", "k8s"])
def test_the_lock_of_an_extra_has_all_of_it_and_agrees_with_the_platforms_lock(extra):
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    own, base = pinned(f"requirements-{extra}.lock"), pinned("requirements.lock")

    assert {re.split(r"[\[<>=]", requirement)[0] for requirement in declared} <= own.keys()
    assert {name: version for name, version in own.items() if base.get(name, version) != version} == {}


def test_an_extra_is_added_from_its_own_lock(clone):
    shutil.copy(REPOSITORY / "requirements-ray.lock", clone)

    assert "--require-hashes -r requirements-ray.lock" in make(clone, "-n", "setup-ray")
