"""What the source itself keeps to: names that explain themselves, each with one meaning."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLATFORM = ("hfthot_platform", "assets", "jobs", "sensors", "resources")
#: Text in which `each` may be a name, so that not every file is parsed.
BOUND = re.compile(r"\bfor\s[^#\n]*\beach\b|\blambda\b[^#\n]*\beach\b|\bas each\b|\beach\s*:?=|[(,*]\s*each\s*[,:=)]")
PACKAGES = (*PLATFORM, "benchmarks", "tests")
#: A private name of something else: its attribute, what is imported from it, or what is set on it.
PRIVATE = re.compile(
    r"""(?:(?<!self)(?<!cls)(?<=[\w)\]])\.|^\s*from\s.*\simport\s(?:.*,\s)?|setattr\(.*"(?:[\w.]*\.)?)(?P<name>_[a-zA-Z]\w*)\b(?!\.|/)"""
)
#: Private by their spelling alone: the library that defines them documents them.
KNOWN_TO_ALL = {"_asdict", "_exit", "_fields", "_replace", "_repr_html_"}


@cache
def tree_of(file):
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def files_of(package):
    return sorted((ROOT / package).rglob("*.py"))


def shown(file, node):
    return f"{file.relative_to(ROOT)}:{node.lineno}"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_loop_variable_names_its_thing(package):
    found = [
        shown(file, node)
        for file in files_of(package)
        if BOUND.search(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree_of(file))
        if (isinstance(node, ast.Name) and node.id == "each") or (isinstance(node, ast.arg) and node.arg == "each")
    ]
    assert files_of(package)
    assert not found, "call the variable by what it is, such as table or row"


def test_a_class_name_has_one_meaning():
    places = defaultdict(list)
    for package in PLATFORM:
        for file in files_of(package):
            text = file.read_text(encoding="utf-8")
            for number, line in enumerate(text.splitlines(), 1):
                if found := re.match(r"\s*class (\w+)[(:]", line):
                    places[found[1].lstrip("_")].append(f"{file.relative_to(ROOT)}:{number} {found[1]}")
    assert "Lakehouse" in places
    assert not {name: where for name, where in places.items() if len(where) > 1}


def test_modules_of_the_platform_have_public_names():
    private = [
        file.relative_to(ROOT).as_posix()
        for package in PLATFORM
        for file in files_of(package)
        if file.name.startswith("_") and file.name not in {"__init__.py", "__main__.py"}
    ]
    assert not private, "what a package shares has a name that says what belongs there"


def test_tests_use_public_names():
    private = [
        f"{file.relative_to(ROOT)}:{number} {line.strip()}"
        for file in files_of("tests")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        for found in PRIVATE.finditer(line)
        if found["name"] not in KNOWN_TO_ALL
    ]
    assert not private, "what a test needs of a module is part of what the module offers: give it a public name"
