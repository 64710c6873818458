"""Every example of the client's documentation runs, and shows what it says."""

from __future__ import annotations

import doctest
import inspect
import itertools
import re
from pathlib import Path

import pytest

from hfthot_platform import LakehouseClient
from hfthot_platform.core.settings import load_settings

from .conftest import PASSWORD

PAGE = Path(__file__).resolve().parents[2] / "docs" / "client.md"
#: Public names that are not calls of their own.
APART: set[str] = set()
CALLS = sorted(
    name
    for name, member in vars(LakehouseClient).items()
    if not name.startswith("_") and callable(inspect.unwrap(getattr(LakehouseClient, name)))
)
_numbers = itertools.count()


@pytest.fixture(scope="module")
def place(tmp_path_factory, filled):
    """Return a data folder that the examples share."""
    import shutil

    root = tmp_path_factory.mktemp("examples") / "data"
    shutil.copytree(filled, root / "lake")
    return root


@pytest.fixture
def scene(place, cheap):
    """Return the names that the examples take for granted."""
    number = next(_numbers)
    client = LakehouseClient(place, create=True)
    username, email = f"grace{number}", f"grace{number}@example.org"
    user = client.register(username, email, PASSWORD)
    strict = LakehouseClient.from_settings(
        load_settings(
            lake_root=str(place / "lake"),
            accounts=place / "accounts",
            key_file=place / "keys" / "kek.json",
            approve_registrations=True,
        )
    )
    waiting = strict.register(f"waiting{number}", f"waiting{number}@example.org", PASSWORD)
    yield {
        "LakehouseClient": LakehouseClient,
        "client": client,
        "folder": place,
        "username": username,
        "email": email,
        "password": PASSWORD,
        "user": user,
        "waiting": waiting,
    }
    client.close()
    strict.close()


def test_every_call_has_an_example_a_type_and_a_description():
    for name in CALLS:
        function = inspect.unwrap(getattr(LakehouseClient, name))
        signature = inspect.signature(function)
        assert ">>> " in (function.__doc__ or ""), f"{name} has no example"
        assert signature.return_annotation is not inspect.Signature.empty, f"{name} says not what it returns"
        assert all(
            parameter.annotation is not inspect.Parameter.empty
            for parameter in signature.parameters.values()
            if parameter.name not in {"self", "cls"}
        ), f"{name} has an argument without a type"


@pytest.mark.soak
@pytest.mark.parametrize("name", ["the class", *CALLS])
def test_the_example_of(name, scene):
    member = LakehouseClient if name == "the class" else inspect.unwrap(getattr(LakehouseClient, name))
    found = doctest.DocTestFinder(recurse=False).find(member, name, globs=scene)
    found = [documented for documented in found if documented.examples]
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said: list[str] = []

    for documented in found:
        runner.run(documented, out=said.append, clear_globs=False)

    assert runner.tries
    assert not runner.failures, "".join(said)


def test_the_page_names_every_call():
    text = PAGE.read_text()

    assert [name for name in CALLS if f".{name}(" not in text] == []


@pytest.mark.soak
def test_the_code_of_the_page_runs_from_top_to_bottom(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    LakehouseClient.create(folder).close()
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, object] = {}

    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)

    assert len(blocks) > 5
