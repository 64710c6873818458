"""Names that look alike, and what cannot be seen: Unicode's security mechanisms (UTS 39), for new usernames.

The tables are libraries': `confusable_homoglyphs` has Unicode's look-alike characters and scripts, `regex` its
properties.  Both are loaded with the first registration.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any, Final

from hfthot_platform.core.errors import BadRequestError

__all__ = ["require_visible", "skeleton"]

#: Shown as nothing although no property says so: the Braille blank and an empty note head.
_BLANK: Final = "\u2800\U0001d159"
#: Scripts that are written together (UTS 39, 5.2: highly restrictive).
_TOGETHER: Final = (
    frozenset({"LATIN", "HAN", "HIRAGANA", "KATAKANA"}),
    frozenset({"LATIN", "HAN", "BOPOMOFO"}),
    frozenset({"LATIN", "HAN", "HANGUL"}),
)
_ANY_SCRIPT: Final = frozenset({"COMMON", "INHERITED"})
#: Marks that one letter may carry; more of them cover the lines around it.
_MOST_MARKS: Final = 3


def require_visible(text: str, field: str) -> None:
    """Check that every character of a text shows, and that it is of one script or of some that are written together.

    Raises:
        BadRequestError: it is not; the message never quotes the text.
    """
    import regex
    from confusable_homoglyphs.categories import aliases_categories

    hidden = regex.search(rf"[\p{{Default_Ignorable_Code_Point}}{_BLANK}]|^\p{{M}}|\p{{M}}{{{_MOST_MARKS + 1},}}", text)
    if hidden or "  " in text:
        raise BadRequestError("it contains control or invisible characters", where=field, hint="Remove them.")
    scripts = frozenset(aliases_categories(sign)[0] for sign in text) - _ANY_SCRIPT
    digits = {ord(sign) - unicodedata.decimal(sign) for sign in text if unicodedata.category(sign) == "Nd"}
    if len(digits) > 1 or (len(scripts) > 1 and not any(scripts <= together for together in _TOGETHER)):
        raise BadRequestError(
            "it mixes scripts with similar-looking letters", where=field, hint="Use letters of one script only."
        )


def skeleton(text: str) -> str:
    """Return what all texts that look like this one share (UTS 39, 4): never shown, only compared.

    Case makes no difference, before the look-alikes are replaced and after.
    """
    folded = unicodedata.normalize("NFD", text.casefold())
    replaced = "".join(_prototypes().get(sign, sign) for sign in folded)
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", replaced).casefold())


@cache
def _prototypes() -> dict[str, str]:
    """Return for each character that looks like another text the one that stands for all of them."""
    from confusable_homoglyphs import confusables

    alike: dict[str, Any] = confusables.confusables_data
    leader: dict[str, str] = {}

    def lead(text: str) -> str:
        while (other := leader.get(text, text)) != text:
            text = other
        return text

    for one, others in alike.items():
        for other in others:
            first, second = lead(_bare(one)), lead(_bare(other["c"]))
            if first != second:
                kept, gone = sorted((first, second), key=_rank)
                leader[gone] = kept
    return {
        text: "".join(lead(sign) if len(lead(sign)) == 1 else sign for sign in lead(text))
        for text in map(_bare, alike)
        if len(text) == 1
    }


def _rank(text: str) -> tuple[int, int, str]:
    """Order what looks alike: several characters stand for single ones, then small letters, the first by number."""
    return -len(text), 0 if text.islower() else 1 if text.isalpha() else 2, text


def _bare(text: str) -> str:
    """Return a text of the table without the marks that keep it left to right there."""
    return text.replace("\u200e", "") or text
