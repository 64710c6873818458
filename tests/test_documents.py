"""YAML that people write: read within bounds, refused with a line where it is not plain."""

from __future__ import annotations

import pytest

from hfthot_platform.adapters.files.mapping import load_mapping
from hfthot_platform.core.documents import MAX_BYTES, MAX_VALUES, line_of, load_yaml, parse_yaml
from hfthot_platform.core.errors import DocumentError, RejectedFileError


def _merges(levels: int) -> str:
    lines = ["m0: &m0 {p: 1, q: 2}"]
    lines += [f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 12)}]}}" for n in range(1, levels)]
    return "\n".join(lines)


def _aliases(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (_merges(9), 1, "anchors"),
        (_aliases(12), 1, "anchors"),
        ("one: 1\ntwo: *gone", 2, "aliases"),
        ("one: 1\n<<: {a: 1}", 2, "merge keys"),
        ("one:\n  " + "[" * 5000, 2, "nested deeper"),
        ("{a: " * 5000, 1, "nested deeper"),
        ("- 1\n" * (MAX_VALUES + 1), MAX_VALUES, "values"),
        ("x" * (MAX_BYTES + 1), 1, "characters"),
        ("one: !!python/object/apply:os.getcwd []", 1, "tag"),
        ("one: !mine 2", 1, "tag"),
        ("ok: 1\nwrong: [1\n", 3, "not valid YAML"),
        ("day: 2024-99-99", 1, "not valid YAML"),
        ("number: " + "9" * 6000, 1, "not valid YAML"),
        ("? {a: 1}\n: 2", 1, "not valid YAML"),
        ("bad: \x07", 1, "not valid YAML"),
        ("a: 1\nb: 2\na: 3", 3, "'a' occurs twice"),
        ("a:\n  - {b: 1, b: 2}", 2, "'b' occurs twice"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_at_its_line(text, line, says) -> None:
    with pytest.raises(DocumentError, match=says) as caught:
        load_yaml(text, where="notes.yaml")
    assert caught.value.line == line
    assert f"notes.yaml:{line}" in str(caught.value)
    assert caught.value.hint


def test_plain_yaml_is_read() -> None:
    text = "a: 1\nb: [x, 'y: z', 2.5]\nc: {d: null, e: 2024-01-02}\nf: '<<'\ng: 'a & b * c'\n"
    data = load_yaml(text, where="")
    assert data["b"] == ["x", "y: z", 2.5]
    assert (data["c"]["d"], data["f"], data["g"]) == (None, "<<", "a & b * c")
    assert load_yaml("", where="") is None


def test_a_value_knows_its_line() -> None:
    document = parse_yaml("a: 1\nb:\n  - x\n  - {c: 2}\n", where="")
    assert document.node is not None
    assert line_of(document.node, ("b", 1, "c")) == 4
    assert line_of(document.node, ("b", "nothing")) == 2


@pytest.mark.parametrize("text", [_merges(9), _aliases(12), "[" * 60_000, "venue: kraken\nvenue: okx"])
def test_a_mapping_that_would_expand_is_a_bad_mapping(tmp_path, text) -> None:
    path = tmp_path / "a.csv.mapping.yaml"
    path.write_text(text)
    with pytest.raises(RejectedFileError) as caught:
        load_mapping(path)
    assert caught.value.reason == "bad_mapping"
