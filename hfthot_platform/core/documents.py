"""YAML written by people: sidecar mappings, headers of SQL models, instance files.  The only reader of YAML.

A YAML text of a few hundred bytes can stand for more data than a machine holds (aliases of aliases, merged
mappings), and one of a few thousand can nest deeper than a stack.  Nothing that people write for us needs
either, so size, depth and number of values are bounded while the text is read as events, before anything is
built; anchors, aliases, merge keys and tags are refused; a key that stands twice is reported, since YAML would
silently take the last one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

from hfthot_platform.core.errors import DocumentError

__all__ = ["Document", "Node", "line_of", "load_yaml", "parse_yaml"]

Node = yaml.Node

MAX_BYTES: Final = 262_144
MAX_DEPTH: Final = 20
MAX_VALUES: Final = 20_000
# The C loader takes a tenth of the time; it is missing where PyYAML was built without its library.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Document:
    """A YAML document: its data, where each value stands, and the keys that stand twice."""

    data: Any
    node: yaml.Node | None
    #: (line from 1, key) of each key that its mapping has already.
    repeated: tuple[tuple[int, str], ...] = ()


def load_yaml(text: str, *, where: str) -> Any:
    """Return the data of a YAML document.

    Raises:
        DocumentError: as `parse_yaml`, and where a key stands twice.
    """
    return parse_yaml(text, where=where, unique_keys=True).data


def parse_yaml(text: str, *, where: str, unique_keys: bool = False) -> Document:
    """Read one YAML document within the bounds of this module.

    Args:
        text: the YAML.
        where: the file, for messages.
        unique_keys: whether a key that stands twice is an error; otherwise it is in `repeated`.

    Raises:
        DocumentError: not YAML, too large, too deep, or with anchors, aliases, merge keys or tags; `line` says
            where (from 1).
    """
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise DocumentError(
            f"the text has {len(text)} characters; at most {MAX_BYTES} bytes are allowed",
            line=1,
            where=where,
            hint="Shorten it.",
        )
    try:
        _bounded(text, where)
        loader = _LOADER(text)
        try:
            node = loader.get_single_node()
            data = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise DocumentError(
            f"not valid YAML: {error.problem or error.context}",
            line=mark.line + 1 if mark else 1,
            where=where,
            hint="Quote values that contain ': ' or ' #'.",
        ) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        what = str(error).splitlines()[0]
        raise DocumentError(
            f"not valid YAML: {what}", line=1, where=where, hint="Correct it, or quote the value."
        ) from error
    document = Document(data, node, tuple(_repeated(node)) if node is not None else ())
    for line, key in document.repeated if unique_keys else ():
        raise DocumentError(f"{key!r} occurs twice", line=line, where=where, hint="Remove one of the two.")
    return document


def line_of(node: yaml.Node, path: tuple[str | int, ...]) -> int:
    """Return the line (from 1) of the value at a path of keys and positions, or of its nearest ancestor."""
    line = node.start_mark.line + 1
    for step in path:
        if isinstance(node, yaml.MappingNode):
            entry = next(((key, value) for key, value in node.value if key.value == str(step)), None)
            if entry is None:
                break
            line, node = entry[0].start_mark.line + 1, entry[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _bounded(text: str, where: str) -> None:
    """Refuse, event by event, what would expand, nest too deeply, or hold too many values."""
    depth = values = 0
    for event in yaml.parse(text, Loader=_LOADER):
        line = (event.start_mark.line if event.start_mark else 0) + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise DocumentError(
                "anchors and aliases (& and *) are not allowed", line=line, where=where, hint="Write the value out."
            )
        if isinstance(event, yaml.NodeEvent):
            values += 1
            tag = getattr(event, "tag", None)
            if tag:
                raise DocumentError(
                    f"the tag {tag!r} is not allowed", line=line, where=where, hint="Write the plain value."
                )
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]:
            raise DocumentError(
                "merge keys (<<) are not allowed", line=line, where=where, hint="Write the entries out."
            )
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or values > MAX_VALUES:
            bound = f"nested deeper than {MAX_DEPTH}" if depth > MAX_DEPTH else f"more than {MAX_VALUES} values"
            raise DocumentError(bound, line=line, where=where, hint="Simplify it.")


def _repeated(node: yaml.Node) -> Iterator[tuple[int, str]]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            word = str(key.value)
            if word in seen:
                yield key.start_mark.line + 1, word
            seen.add(word)
            yield from _repeated(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _repeated(value)
