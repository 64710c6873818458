"""Searching bytes for many values in many encodings at once, at the speed of memory.

A compiled loop looks at every third position of the data: if the two bytes there belong to none of the patterns'
first four, no pattern begins at any of the three positions around it.  The few places that are left are compared
by hash of their first four, then eight bytes (letters folded to lower case), and what is left of those is matched
exactly: character by character, or where that happens often by a regular expression.

Here belongs how a value is written and how it is found in bytes; not where the bytes come from, nor what a match means.
"""

from __future__ import annotations

import base64
import html.entities
import itertools
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import Final
from urllib.parse import quote_from_bytes

import numpy as np
import numpy.typing as npt

__all__ = ["ENCODINGS", "OVERLAP", "Hit", "Needle", "Searcher"]

#: In which forms a value is looked for.  `text` is any mixture of UTF-8, Latin-1, and escapes of URLs, JSON, HTML and
#: mail (quoted-printable).
ENCODINGS: Final = ("text", "utf-16-le", "utf-16-be", "base64", "hex")
#: No match is longer, so blocks of a stream that overlap by this much lose none.
OVERLAP: Final = 4096
#: A longer value is looked for by its beginning.
_LONGEST = 96
#: A match in random data of this many bits is expected once in a terabyte.
_CERTAIN_BITS = 40.0
_MOST_PREFIXES = 20_000
_HASH_BITS = 18
#: After so many comparisons with a value it is worth compiling an expression for it.
_ASKED_OFTEN = 500
#: For how many characters the ways to write them are kept.
_CHARACTERS = 4096
_ESCAPE_BEFORE = re.compile(
    rb"(?:\\[nrtbfv]|\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|%(?:25)?[0-9a-fA-F]{2}|=[0-9A-F]{2})\Z"
)
_TEXT = re.compile(rb"[\t\n\r\x20-\x7e\x80-\xff]*\Z")
_ALNUM = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_DIGITS = frozenset(b"0123456789")
#: What breaks a line inside Base64 or hexadecimal: as it is, quoted by mail, and within JSON.
_BREAK: Final = re.compile(rb"\r?\n[ \t>]*|\\r\\n|\\n")
_BREAKS: Final = (b"\n", b"\r\n", b"\\n", b"\\r\\n")
#: Scripts that part words by blanks; in others a letter beside a name says nothing.
_PARTED: Final = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "GEORGIAN", "FULLWIDTH LATIN")

#: The ways to write one character.
_Atom = tuple[bytes, ...]
Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, repr=False)
class Needle:
    """A value to look for.  Its `repr` names the kind alone.

    Args:
        kind: what it is (`email`, `username`, ...): the only thing about it that reports say.
        value: text, or bytes that are looked for as they are, as hexadecimal and as Base64.
        whole_word: letters or digits directly before or after it make it something else.
    """

    kind: str
    value: str | bytes
    whole_word: bool = False

    def __repr__(self) -> str:
        return f"Needle({self.kind})"


@dataclass(frozen=True)
class Hit:
    """A place where a value was found: its offset, what kind of value, and in which encoding."""

    offset: int
    kind: str
    encoding: str
    needle: Needle
    #: Where it ends.
    end: int


@dataclass(frozen=True)
class _Pattern:
    needle: Needle
    encoding: str
    atoms: tuple[_Atom, ...]
    #: How often it was asked where it ends.
    asked: list[int] = field(default_factory=lambda: [0], compare=False)

    @property
    def wrapped(self) -> bool:
        """Whether lines may be broken anywhere inside it."""
        return self.encoding in {"base64", "hex"}

    @cached_property
    def _ways(self) -> tuple[dict[int, _Atom], ...]:
        return tuple(map(_by_first_byte, self.atoms))

    @cached_property
    def _regex(self) -> re.Pattern[bytes]:
        groups = (b"(?:" + b"|".join(map(re.escape, sorted(atom, key=len, reverse=True))) + b")" for atom in self.atoms)
        between = b"(?:" + _BREAK.pattern + b")?" if self.wrapped else b""
        return re.compile(between.join(groups), re.DOTALL)

    def end(self, view: memoryview, position: int) -> int | None:
        """Return where the value ends that begins at a position, or None if none does."""
        self.asked[0] += 1
        if self.asked[0] > _ASKED_OFTEN:
            match = self._regex.match(view, position)
            return match.end() if match else None
        return self._walked(view, position)

    def _walked(self, view: memoryview, position: int) -> int | None:
        """Return what `_regex` would find, which takes longer to compile than most scans last."""
        data = bytes(view[position : position + OVERLAP])
        ways, wrapped, count = self._ways, self.wrapped, len(self._ways)
        # Where to go on if the preferred way fails: the next character, and where it has to be.
        todo, tried = [(0, 0)], set[tuple[int, int]]()
        while todo:
            number, at = state = todo.pop()
            if state in tried:
                continue
            tried.add(state)
            while number < count:
                written = ways[number].get(data[at], ()) if at < len(data) else ()
                number += 1
                line_break = _BREAK.match(data, at) if wrapped and number > 1 else None
                if len(written) == 1 and not line_break:
                    # Nearly every character of nearly every value.
                    if not data.startswith(written[0], at):
                        break
                    at += len(written[0])
                    continue
                ends = [at + len(way) for way in written if data.startswith(way, at)]
                if line_break and line_break.end() < len(data):
                    start = line_break.end()
                    ends += [
                        start + len(way) for way in ways[number - 1].get(data[start], ()) if data.startswith(way, start)
                    ]
                if len(ends) != 1:
                    todo += [(number, end) for end in ends]
                    break
                (at,) = ends
            else:
                return position + at
        return None

    @property
    def bits(self) -> float:
        """How many bits of random bytes of its alphabet a match needs."""
        per = {"base64": 6.0, "hex": 4.0}.get(self.encoding)
        if per is not None:
            return per * len(self.atoms)
        return sum(8.0 * min(map(len, atom)) - math.log2(len(atom)) for atom in self.atoms)

    def prefixes(self, length: int) -> set[bytes]:
        """Return the first `length` bytes of every way to write the value, folded; empty if there are too many."""
        done: set[bytes] = set()
        open_: set[bytes] = {b""}
        for atom in self.atoms:
            grown = {start + way for start, way in itertools.product(open_, _folded(atom))}
            done |= {start[:length] for start in grown if len(start) >= length}
            open_ = {start for start in grown if len(start) < length}
            if len(done) + len(open_) > _MOST_PREFIXES:
                return set()
            if not open_:
                break
        done |= open_
        if self.wrapped:
            # Lines are longer than this, so that one break at most falls into it.
            done |= {
                (start[:at] + cut + start[at:])[:length] for start in done for at in range(1, length) for cut in _BREAKS
            }
        return done


class Searcher:
    """Looks for all values at once.

    Args:
        needles: the values.  Text of fewer than four characters (three Cyrillic, two Chinese ones) cannot be told from
            chance and is left out; what was left out, and why, is in `left_out`.
    """

    def __init__(self, needles: Iterable[Needle]) -> None:
        #: (kind, reason) of values, or encodings of values, that are not looked for.
        self.left_out: list[tuple[str, str]] = []
        #: The values that are.
        self.searched: list[Needle] = []
        patterns: list[_Pattern] = []
        for needle in dict.fromkeys(needles):
            if _too_short(needle.value):
                self.left_out.append((needle.kind, "too short to distinguish from chance"))
                continue
            made = list(_patterns(needle))
            # In text the neighbours tell chance.
            kept = [pattern for pattern in made if pattern.encoding == "text" or pattern.bits >= _CERTAIN_BITS]
            gone = {pattern.encoding for pattern in made} - {pattern.encoding for pattern in kept}
            # All three alignments of Base64, or none: one of them alone would look like more than it is.
            if len(made) - len(kept) and "base64" in {pattern.encoding for pattern in made if pattern not in kept}:
                kept = [pattern for pattern in kept if pattern.encoding != "base64"]
                gone.add("base64")
            self.left_out += [(needle.kind, f"too short to search for as {name}") for name in sorted(gone)]
            if kept:
                self.searched.append(needle)
            patterns += kept
        self._buckets: dict[bytes, list[_Pattern]] = {}
        #: Whether two bytes are next to each other in the first four of some pattern.
        self._pairs = np.zeros(1 << 16, dtype=np.uint8)
        #: By hash of four bytes: 1 if eight bytes decide, 2 if they are enough.
        self._fours = np.zeros(1 << _HASH_BITS, dtype=np.uint8)
        self._eights = np.zeros(1 << _HASH_BITS, dtype=np.uint8)
        deciding: set[bytes] = set()
        for pattern in patterns:
            eights = pattern.prefixes(8)
            fours = {eight[:4] for eight in eights} or pattern.prefixes(4)
            for four in fours:
                self._buckets.setdefault(four, []).append(pattern)
            if eights and all(len(eight) == 8 for eight in eights):
                deciding |= eights
            else:
                self._mark(self._fours, fours, 2)
        self._mark(self._fours, {eight[:4] for eight in deciding}, 1)
        self._mark(self._eights, deciding, 1)
        # The loop looks at the bytes as they are, so both cases of a letter count.
        for folded in _rows(self._buckets):
            cases = (folded, np.where((folded >= 97) & (folded <= 122), folded - 32, folded))
            for one, two in itertools.product(cases, cases):
                self._pairs[one[:, :-1].astype(np.uint16) << 8 | two[:, 1:]] = 1

    def __bool__(self) -> bool:
        return bool(self._buckets)

    @staticmethod
    def _mark(table: npt.NDArray[np.uint8], beginnings: Iterable[bytes], mark: int) -> None:
        for folded in _rows(beginnings):
            table[_hashes(folded)] |= mark

    def search(
        self, data: Bytes, stop: int | None = None, *, words: bool = True, touching: bool = False
    ) -> Iterator[Hit]:
        """Yield every place before `stop` where a value begins.

        Args:
            data: what to look through; contiguous.
            stop: the first position that is not looked at as a beginning (matches may reach past it).
            words: whether `whole_word` is heeded; the ends of `data` are ends of words.
            touching: whether texts may stand side by side without anything between, as in a page of SQLite: then an
                e-mail address counts whatever is beside it.
        """
        from hfthot_platform.services.privacy.proof.prefilter import candidates  # numba takes a second to import

        view = memoryview(data).cast("B")
        array = np.frombuffer(view, dtype=np.uint8)
        size = len(view) if stop is None else min(stop, len(view))
        start = 0
        found = np.empty(65_536, dtype=np.int64)
        while True:
            count = candidates(array, start, self._pairs, self._fours, self._eights, found)
            for position in found[:count].tolist():
                if position >= size:
                    return
                yield from self._at(view, position, words=words, touching=touching)
            if count < found.size:
                return
            start = int(found[-1]) + 1

    def _at(self, view: memoryview, position: int, *, words: bool, touching: bool) -> Iterator[Hit]:
        for pattern in self._buckets.get(bytes(view[position : position + 4]).lower(), ()):
            end = pattern.end(view, position)
            if end is None:
                continue
            heeded = words and not (touching and pattern.needle.kind == "email")
            if not (heeded and _is_part(pattern, view, position, end)):
                yield Hit(position, pattern.needle.kind, pattern.encoding, pattern.needle, end)


def _too_short(value: str | bytes) -> bool:
    """Whether a value cannot be told from chance: four letters can, and what is as long in bytes of another script."""
    return len(value) < 4 and (isinstance(value, bytes) or len(value.encode("utf-8", "surrogatepass")) < 6)


def _is_part(pattern: _Pattern, view: memoryview, start: int, end: int) -> bool:
    """Whether a match is part of another word, or chance in binary data, rather than the value."""
    if not pattern.needle.whole_word or pattern.wrapped:
        return False
    if pattern.encoding == "text":
        before, after = bytes(view[max(0, start - 12) : start]), bytes(view[end : end + 12])
        if _goes_on(pattern.needle, before[::-1], _last(before)) and not _ESCAPE_BEFORE.search(before):
            return True
        if _goes_on(pattern.needle, after, _first(after)):
            return True
        return pattern.bits < _CERTAIN_BITS and not (_TEXT.match(before) and _TEXT.match(after))
    units = (bytes(view[max(0, start - 2) : start]), bytes(view[end : end + 2]))
    return any(len(unit) == 2 and _parts(unit.decode(pattern.encoding, "replace")) for unit in units)


def _goes_on(needle: Needle, outwards: bytes, sign: str) -> bool:
    """Whether what is beside a match (bytes from the match outwards, and the character) continues it."""
    if not outwards:
        return False
    if outwards[0] in _ALNUM or _parts(sign):
        return True
    # 10.0.0.1 is not in 110.0.0.1 and not in 10.0.0.1.2; a full stop behind it ends a sentence.
    return needle.kind == "ip" and len(outwards) > 1 and outwards[0] == 0x2E and outwards[1] in _DIGITS


def _parts(sign: str) -> bool:
    """Whether a character beside a word makes it another word: a letter, digit or mark of a script with blanks."""
    if not sign:
        return False
    group = unicodedata.category(sign)[0]
    return group in {"M", "N"} or (group == "L" and unicodedata.name(sign, "").startswith(_PARTED))


def _first(data: bytes) -> str:
    """Return the character that UTF-8 text begins with, if it is not ASCII."""
    for size in (2, 3, 4):
        try:
            return data[:size].decode() if data[:1] >= b"\x80" and len(data) >= size else ""
        except UnicodeDecodeError:
            continue
    return ""


def _last(data: bytes) -> str:
    """Return the character that UTF-8 text ends with, if it is not ASCII."""
    for size in (2, 3, 4):
        if len(data) < size or data[-1] < 0x80:
            return ""
        if data[-size] >= 0xC0:
            return data[-size:].decode(errors="ignore")
    return ""


def _rows(beginnings: Iterable[bytes]) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield an array for each length of beginnings, one in each row."""
    for length, alike in itertools.groupby(sorted(beginnings, key=len), key=len):
        yield np.frombuffer(b"".join(alike), dtype=np.uint8).reshape(-1, length)


def _hashes(folded: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Return what the compiled loop computes of each row: FNV-1a, folded to the size of the tables."""
    code = np.full(len(folded), 14695981039346656037, dtype=np.uint64)
    for byte in folded.T:
        code = (code ^ byte) * np.uint64(1099511628211)
    return (code ^ code >> np.uint64(32)) & np.uint64((1 << _HASH_BITS) - 1)


def _patterns(needle: Needle) -> Iterator[_Pattern]:
    """Yield every form of a value."""
    if isinstance(needle.value, bytes):
        raw = needle.value[:_LONGEST]
        yield _Pattern(needle, "text", tuple((bytes([byte]),) for byte in raw))
        yield from _coded(needle, raw)
        return
    value = unicodedata.normalize("NFC", needle.value)[:_LONGEST]
    text = _Pattern(needle, "text", tuple(_written(sign) for sign in value))
    if text.prefixes(4):
        yield text
    else:
        # Too many mixtures of ways to write its first characters: each way for itself.
        yield from (pattern for pattern in map(partial(_alike, text), range(5)) if pattern.prefixes(4))
    # Letters stay as they are in the forms above; here every single character is escaped, as some programs do it.
    yield from (_Pattern(needle, "text", tuple(_all_escaped(sign, way) for sign in value)) for way in _ESCAPES)
    for encoding in ("utf-16-le", "utf-16-be"):
        yield _Pattern(needle, encoding, tuple(_wide(sign, encoding) for sign in value))
    cases = dict.fromkeys((value, value.lower(), value.upper()))
    for variant in dict.fromkeys(form for case in cases for form in _forms(case)):
        yield from _coded(needle, variant.encode("utf-8", "surrogatepass"))


def _alike(pattern: _Pattern, style: int) -> _Pattern:
    """Return a pattern whose characters are all written in one way, where they can be."""
    atoms = tuple(tuple(way for way in atom if _style(way) == style) or atom for atom in pattern.atoms)
    return _Pattern(pattern.needle, pattern.encoding, atoms)


def _style(way: bytes) -> int:
    """Return which way of writing this is: escaped by JSON, URL or HTML, one byte, or as it is."""
    return {0x5C: 0, 0x25: 1, 0x26: 2}.get(way[0], 3 if len(way) == 1 else 4)


def _forms(text: str) -> tuple[str, ...]:
    """Return the composed and the decomposed form."""
    return tuple(dict.fromkeys((text, unicodedata.normalize("NFD", text))))


def _coded(needle: Needle, raw: bytes) -> Iterator[_Pattern]:
    """Yield hexadecimal, and Base64 at its three alignments without the characters that neighbours share."""
    digits = raw.hex()
    yield _Pattern(needle, "hex", tuple(_HEXADECIMAL[digit] for digit in digits))
    for shift in range(3):
        code = base64.b64encode(bytes(shift) + raw)
        inner = code[(shift * 8 + 5) // 6 : (len(raw) + shift) * 8 // 6]
        atoms = tuple(_BASE64[byte] for byte in inner)
        yield _Pattern(needle, "base64", atoms)


_HEXADECIMAL: Final[dict[str, _Atom]] = {
    digit: tuple(dict.fromkeys((digit.encode(), digit.upper().encode()))) for digit in "0123456789abcdef"
}
#: Base64's two signs in its alphabets, and as JSON and URLs write them; all others are written as they are.
_BASE64: Final[dict[int, _Atom]] = {byte: (bytes([byte]),) for byte in range(128)} | {
    ord("+"): (b"+", b"-", b"%2B", b"%2b", b"\\u002b", b"\\u002B"),
    ord("/"): (b"/", b"_", b"%2F", b"%2f", b"\\/", b"\\\\/"),
}


@lru_cache(maxsize=_CHARACTERS)
def _folded(atom: _Atom) -> frozenset[bytes]:
    return frozenset(way.lower() for way in atom)


@lru_cache(maxsize=_CHARACTERS)
def _by_first_byte(atom: _Atom) -> dict[int, _Atom]:
    """Return the ways to write a character by their first byte, the longest last.

    It is the preferred one, so that `&amp;` is not taken for `&` with something behind it.
    """
    ordered = sorted(atom, key=len)
    return {first: tuple(way for way in ordered if way[0] == first) for first in {way[0] for way in ordered}}


def _letter(sign: str) -> set[str]:
    return {sign, sign.lower(), sign.upper()}


@lru_cache(maxsize=_CHARACTERS)
def _written(sign: str) -> _Atom:
    """Return the ways in which text files write a character: both cases, raw and escaped."""
    if sign.isascii() and sign.isalnum():
        return tuple(form.encode() for form in _letter(sign))
    ways: set[bytes] = set()
    for letter in _letter(sign):
        for form in _forms(letter):
            raw = form.encode("utf-8", "surrogatepass")
            ways.add(raw)
            percent = quote_from_bytes(raw, safe="")
            if percent == form:
                percent = f"%{raw[0]:02X}"
            for text in (percent, percent.replace("%", "%25"), percent.replace("%", "=")):
                ways |= {text.encode(), text.lower().encode(), text.upper().encode()}
            ways |= _escaped(form)
        if ord(letter[0]) < 256 and not letter.isascii() and len(letter) == 1:
            ways.add(letter.encode("latin-1"))
    if sign == " ":
        ways.add(b"+")
    return tuple(sorted(ways))


def _escaped(form: str) -> set[bytes]:
    """Return JSON's and HTML's escapes of a character; JSON within JSON doubles the backslashes."""
    units = [unit for letter in form for unit in _utf16_units(letter)]
    bodies = {"".join(f"\x00u{unit:04x}" for unit in units), "".join(f"\x00u{unit:04X}" for unit in units)}
    short = json.dumps(form)[1:-1]
    if short.startswith("\\") and len(short) == 2:
        bodies.add("\x00" + short[1])
    if form in {"/", "'"}:
        bodies.add("\x00" + form)
    if len(form) > 1:
        # A letter and its mark: only the mark is escaped.
        marks = "".join(letter if letter.isascii() else f"\x00u{ord(letter):04x}" for letter in form)
        bodies |= {marks, marks.replace("\x00u", "\x01").upper().replace("\x01", "\x00u")}
    ways = {body.replace("\x00", "\\" * times).encode() for body in bodies for times in (1, 2, 3, 4)}
    if len(form) == 1:
        ways |= {f"&#{ord(form)};".encode(), f"&#x{ord(form):x};".encode(), f"&#x{ord(form):X};".encode()}
        if name := html.entities.codepoint2name.get(ord(form)):
            ways.add(f"&{name};".encode())
    return ways


#: How a character is written as an escape, whatever it is: URL, quoted-printable, HTML in both bases, JSON.
_ESCAPES: Final[tuple[Callable[[str], str], ...]] = (
    lambda sign: "".join(f"%{byte:02x}" for byte in sign.encode("utf-8", "surrogatepass")),
    lambda sign: "".join(f"={byte:02x}" for byte in sign.encode("utf-8", "surrogatepass")),
    lambda sign: "".join(f"&#{ord(letter)};" for letter in sign),
    lambda sign: "".join(f"&#x{ord(letter):x};" for letter in sign),
    lambda sign: "".join(f"\\u{unit:04x}" for letter in sign for unit in _utf16_units(letter)),
)


@lru_cache(maxsize=_CHARACTERS)
def _wide(sign: str, encoding: str) -> _Atom:
    return tuple({form.encode(encoding, "surrogatepass") for letter in _letter(sign) for form in _forms(letter)})


@lru_cache(maxsize=_CHARACTERS)
def _all_escaped(sign: str, way: Callable[[str], str]) -> _Atom:
    forms = (form for letter in _letter(sign) for form in _forms(letter))
    return tuple(sorted({cased.encode() for form in forms for cased in (way(form), _upper_digits(way(form)))}))


def _upper_digits(escaped: str) -> str:
    return escaped.upper().replace("\\U", "\\u").replace("&#X", "&#x")


def _utf16_units(sign: str) -> Sequence[int]:
    raw = sign.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(raw[at : at + 2], "big") for at in range(0, len(raw), 2)]
