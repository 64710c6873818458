"""What the documents name exists: pages, sections, files, modules, commands with their options, targets, variables.

The examples themselves are executed by `test_documented_client.py`, `test_documented_examples.py` and the tests that
these name.
"""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from hfthot_platform.core.settings import Settings
from hfthot_platform.interfaces.cli.app import app
from tests.conftest import REPOSITORY

#: Kinds of files in which people write prose: documents, docstrings, headers of SQL models, comments.
_WRITTEN = {".md", ".py", ".sql", ".toml", ".yaml", ".yml", ""}


def _tracked() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True, text=True)
    return [path for name in names.stdout.split("\0") if name and (path := REPOSITORY / name).is_file()]


WRITTEN = [path for path in _tracked() if path.suffix in _WRITTEN]
PAGES = [path for path in WRITTEN if path.suffix == ".md"]
#: What names files of the reader, not of the repository: its examples are executed by `adapters/test_files_page.py`.
FILES_OF_READERS = {REPOSITORY / "docs" / "files.md"}
pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))


def _prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def _blocks(page: Path) -> list[tuple[str, str]]:
    """Return the code blocks of a page: language and text."""
    return re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def _spans(page: Path) -> list[str]:
    """Return the code within the lines of a page."""
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", _prose(page))]


def _sections(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the usual renderers make them."""
    headings = re.findall(r"^#+ (.+)$", _prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_every_link_leads_to_a_page_and_section(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, section = target.partition("#")
        linked = (page.parent / name).resolve() if name else page

        assert linked.exists(), target
        assert not section or section in _sections(linked), target


def _named_paths(page: Path) -> Iterator[str]:
    for span in _spans(page):
        if re.fullmatch(r"[\w.\-]+(/[\w.\-]+)*/?", span) and ("/" in span or span.endswith((".py", ".md", ".toml"))):
            yield span


#: What a page names that an installation, a user or a service has, and a fresh clone has not.
_ELSEWHERE = re.compile(
    r"data/|done/|rejected/|users/|landing/|_|heads/|site/|hfthot\.toml|market/|ops/|staging/|marts/"
    r"|dbt_like_sql/marts/spread\.sql"
)


@pages
def test_every_path_that_a_page_names_exists(page):
    if page in FILES_OF_READERS:
        return
    folders = (REPOSITORY, REPOSITORY / "hfthot_platform", page.parent)
    missing = [
        path
        for path in _named_paths(page)
        if not _ELSEWHERE.match(path)
        and not any((folder / path).exists() or (folder / f"{path}.py").exists() for folder in folders)
    ]

    assert missing == []


@functools.cache
def _resolves(name: str) -> bool:
    """Return whether a dotted name is a module of the platform, or something that one of them speaks of.

    Read from the files: to import everything that is named somewhere takes ten seconds.
    """
    place, *rest = name.split(".")
    module = REPOSITORY / place
    while rest and ((module / rest[0]).is_dir() or (module / f"{rest[0]}.py").is_file()):
        module /= rest.pop(0)
    source = (module / "__init__.py" if module.is_dir() else module.with_suffix(".py")).read_text()
    return all(attribute.startswith("__") or re.search(rf"\b{attribute}\b", source) for attribute in rest)


def _without_imports(path: Path) -> str:
    """Return a text without the imports of a Python file: whoever runs it sees whether they work."""
    text = path.read_text()
    return re.sub(r"^\s*(?:from|import) .*$", "", text, flags=re.MULTILINE) if path.suffix == ".py" else text


def test_every_module_that_is_named_anywhere_exists():
    """Prose, docstrings, headers of SQL models and configuration go out of date without anybody noticing."""
    wrong = {
        f"{path.relative_to(REPOSITORY)}: {name}"
        for path in WRITTEN
        for name in re.findall(r"\bhfthot_platform(?:\.[A-Za-z_]\w*)+", _without_imports(path))
        if not _resolves(name)
    }

    assert wrong == set()


def test_every_file_of_the_package_that_is_named_anywhere_exists():
    wrong = {
        f"{path.relative_to(REPOSITORY)}: {name}"
        for path in WRITTEN
        for name in re.findall(r"\bhfthot_platform(?:/\w+)+(?:\.\w+)?", path.read_text())
        if not (REPOSITORY / name).exists()
    }

    assert wrong == set()


def test_every_target_of_make_that_is_named_exists():
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    named = re.compile(r"(?:`|run: |^)make ((?:[a-z]+ ?)+)(?=`|$| +#)", flags=re.MULTILINE)
    wrong = {
        f"{path.relative_to(REPOSITORY)}: make {target}"
        for path in WRITTEN
        for words in named.findall(path.read_text())
        for target in words.split()
        if target not in targets
    }

    assert wrong == set()


#: A command as it is typed: in code within a line, in a block, or in a message.
_TYPED = re.compile(r"(?:`|^|\$ )(?:\.venv/bin/)?hfthot (?P<rest>[^`\n#]*)", flags=re.MULTILINE)


@functools.cache
def _root() -> Any:
    return typer.main.get_command(app)


def _mistake(typed: str) -> str | None:
    """Return what is not a command or option in what somebody is told to type, if anything."""
    command = _root()
    try:
        words = shlex.split(re.sub(r"[<\[|].*", "", typed))
    except ValueError:  # a quotation that goes on in the next line
        words = typed.split()
    for word in words:
        if command.name == "sql" and word not in command.commands and word != "--help":
            command = command.commands["query"]  # `hfthot sql "SELECT ..."` needs no name
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        if word.startswith("-"):
            name = word.partition("=")[0].rstrip(".,:;)")
            if name not in options | {"--help"} and name.strip("-"):
                return name
        elif hasattr(command, "commands"):
            if not re.fullmatch(r"[a-z\-]+", word):  # a placeholder, such as `hfthot ...`
                return None
            if word not in command.commands:
                return word
            command = command.commands[word]
    return None


def test_every_command_and_option_that_is_named_exists():
    """Hints of errors included: whoever follows one must not meet a usage error."""
    wrong = {
        f"{path.relative_to(REPOSITORY)}: hfthot {typed}: {mistake}"
        for path in WRITTEN
        if path.relative_to(REPOSITORY).parts[0] != "tests"
        for typed in _TYPED.findall(path.read_text())
        if (mistake := _mistake(typed))
    }

    assert wrong == set()


def test_every_variable_that_is_named_is_a_setting_or_is_read_somewhere():
    settings = {f"HFTHOT_{name.upper()}" for name in Settings.model_fields}
    texts = {path: path.read_text() for path in WRITTEN}
    #: Those that are not settings are read by the code that names them as a text of its own.
    read = {name for text in texts.values() for name in re.findall(r"""["'](HFTHOT_[A-Z_]+)["'][\]),]""", text)}
    wrong = {
        f"{path.relative_to(REPOSITORY)}: {name}"
        for path, text in texts.items()
        if path.suffix == ".md"
        for name in re.findall(r"\bHFTHOT_[A-Z_]*[A-Z]\b", text)
        if name not in settings | read
    }

    assert wrong == set()


def test_the_architecture_is_one_page_that_names_every_room():
    page = (REPOSITORY / "docs" / "architecture.md").read_text()
    package = REPOSITORY / "hfthot_platform"
    rooms = {
        f"{floor}/{room.stem}"
        for floor in ("domain", "storage", "services", "interfaces")
        for room in (package / floor).iterdir()
        if room.suffix in {"", ".py"} and not room.stem.startswith("_")
    }
    rooms |= {room.stem for room in package.glob("[a-z]*") if room.suffix in {"", ".py"}}
    rooms -= {"domain", "storage", "services", "interfaces"}

    assert [room for room in sorted(rooms) if f"`{room}`" not in page] == []
    assert len(page.splitlines()) <= 90


#: Pages with Python, and the tests that execute all of it.
EXECUTED = {
    "README.md": "tests/test_documented_examples.py",
    "docs/client.md": "tests/client/test_examples.py",
    "docs/foreign_engines.md": "tests/soak/test_foreign_engines.py",
    "docs/models/backtest.md": "tests/test_research.py",
    "docs/models/chiarella.md": "tests/test_documented_examples.py",
    "docs/models/mean_field_game.md": "tests/test_documented_examples.py",
    "docs/models/portfolio.md": "tests/test_documented_examples.py",
    "docs/models/regime.md": "tests/test_documented_examples.py",
    "docs/models/strategy.md": "tests/test_documented_examples.py",
    "docs/privacy.md": "tests/test_documented_examples.py",
    "docs/sql.md": "tests/test_documented_examples.py",
}


def test_the_python_of_every_page_is_executed_by_a_test():
    with_python = {
        str(page.relative_to(REPOSITORY))
        for page in PAGES
        if page not in FILES_OF_READERS and any(language == "python" for language, _ in _blocks(page))
    }

    assert with_python == set(EXECUTED)
    for page, test in EXECUTED.items():
        assert page.rpartition("/")[2] in (REPOSITORY / test).read_text(), f"{test} does not execute {page}"
