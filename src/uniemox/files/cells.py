"""What a cell of a table means, whatever file it comes from: missing, a number, a name, or several names.

A cell of CSV is a text, one of Parquet or JSON a text, a number, bytes or a list, and a text may be a list as Python,
NumPy or JSON writes one. All are read by the functions here, so that one table means the same in every type of file.
Where a cell has no form that is known they return None: whoever calls counts it.
"""

import ast
import json
import math
import re
import unicodedata
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any, Final

MISSING: Final = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA")
) | frozenset(
    (
        *("NULL", "NaN", "NaT", "None", "n/a", "nan", "null"),
        *("\\N", "(null)", "<null>", "?"),  # databases, and people
        *("#NV", "#REF!", "#BEZUG!", "#VALUE!", "#WERT!", "#DIV/0!", "#NAME?", "#NUM!", "#ZAHL!", "#NULL!"),  # Excel
    )
)
"""Texts of no value: those of pandas 2 (`read_csv`, `na_values`) and its NaT, of databases, and Excel's errors."""

_LONGEST: Final = 1_000_000  # Characters of a cell that are read as a list
_DIGITS: Final = 9
_LONGEST_NAME: Final = 255  # Characters of a name; more is no name but a text
_SEPARATORS: Final = re.compile(r"[|;,]")
_WHOLE: Final = re.compile(r"([+-]?\d+)\.0*", re.ASCII)  # A whole number as pandas writes it beside a gap: 2.0
_DECIMAL_COMMA: Final = re.compile(r"\s*[+-]?\d*,\d+(?:[eE][+-]?\d+)?\s*", re.ASCII)
_INFINITE: Final = (math.inf, -math.inf)
_OPENING, _CLOSING = "[{(", "]})"
# array(['joy', 'fear'], dtype=object), {'joy', 'fear'}, frozenset({'joy'}), Index(['joy'], dtype='object')
_CALL: Final = re.compile(
    r"(?:np\.|numpy\.|pd\.)?(?:array|Array|Index|set|frozenset|list|tuple|dict|Counter|OrderedDict|dict_\w+|deque)\("
)
_OPTION: Final = re.compile(r"\s*(?:dtype|name|length|maxlen)=[^\[\](){}]*")
_MOST_WRAPPED: Final = 3  # Calls around a list, and options of a call
_SCALAR: Final = re.compile(r"(?:np|numpy)\.\w+\(([^()]*)\)")  # np.str_('joy'), np.float64(0.5)
_QUOTED: Final = r"""[bu]?'(?:[^'\\]|\\.)*'|[bu]?"(?:[^"\\]|\\.)*\""""
_WHOLLY_QUOTED: Final = re.compile(_QUOTED, re.DOTALL)
_JOINERS: Final = "\u200c\u200d"
_TOKEN: Final = re.compile(rf"\s*(?:(?P<quoted>{_QUOTED})|(?P<bare>[^\s,'\"\[\]{{}}()]+)|(?P<comma>,))\s*", re.DOTALL)
_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, not a number, a blank text, or a word for nothing."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or value == b"" or (isinstance(value, str) and value.strip() in MISSING)


def number(value: Any) -> float | None:
    """Read a finite number, or the text of one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    is_python = isinstance(value, str) and "_" in value  # which alone allows 1_000
    return found if math.isfinite(found) and not is_python else None


def whole(value: str) -> int | None:
    """Read the number of a class; None for other texts, and for more digits than any list has classes."""
    return int(value) if value.isdecimal() and len(value) <= _DIGITS else None


def with_point(value: Any) -> Any:
    """Write a number with a decimal comma with a point; anything else is returned as it is."""
    if isinstance(value, list):
        return [with_point(part) for part in value]
    return value.replace(",", ".") if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value) else value


def words(value: Any) -> str | None:
    """Read a text that is not blank; line breaks and blanks at its ends would end up in a sentence."""
    return " ".join(value.split()) or None if isinstance(value, str) and is_text(value) else None


def is_text(value: str) -> bool:
    """Whether a text can be written as UTF-8: names of files and JSON may hold halves of characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_name(value: Any) -> str | None:
    """Read a text or a number as one name; whole numbers without the fraction that a gap in their column gives them."""
    if isinstance(value, float):
        value = int(value) if value.is_integer() else value
    elif isinstance(value, bytes):
        value = _decoded(value)
    if not isinstance(value, str | int | float | Decimal | date) or is_missing(value) or value in _INFINITE:
        return None
    text = words(visible(_unquoted(str(value).strip())))
    if text is None or len(text) > _LONGEST_NAME or _looks_packed(text) or not _is_balanced(text):
        return None
    number = _WHOLE.fullmatch(text)
    return number[1] if number else unicodedata.normalize("NFC", text)


def as_names(value: Any) -> tuple[str, ...] | None:
    """Read several names: a list, a text that is one, or a text with |, ; or commas between them; repeats stay."""
    value = unpack(value)
    if isinstance(value, str) and not _looks_packed(value.strip()):
        value = [part for part in _SEPARATORS.split(value) if part.strip()]
    elif not isinstance(value, list):
        value = [value]
    names = [as_name(part) for part in value if not is_missing(part)]
    return None if None in names else tuple(name for name in names if name is not None)


def as_name_or_names(value: Any) -> str | tuple[str, ...] | None:
    """Read one name, or several where the cell is a list; a comma in a text then separates nothing."""
    value = unpack(value)
    return as_names(value) if isinstance(value, list) else as_name(value)


def unpack(value: Any) -> Any:
    """Read the list or the mapping in a text that JSON, Python or NumPy wrote; anything else is returned as it is."""
    if isinstance(value, bytes):
        value = _decoded(value) or value
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    if not isinstance(value, str):
        return value
    text = value.strip()
    if len(text) > _LONGEST or not _looks_packed(text):
        return value
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        found = _unpack_literal(text)
        return value if found is None else found


def visible(text: str) -> str:
    """Leave out characters that nobody sees, such as marks of direction or of hyphens, but for joiners of letters."""
    return "".join(char for char in text if unicodedata.category(char) != "Cf" or char in _JOINERS)


def _unquoted(text: str) -> str:
    """Take a text out of its quotes, as in `b'joy'` or `"joy"`."""
    found = _unquote(text) if _WHOLLY_QUOTED.fullmatch(text) else None
    found = _decoded(found) if isinstance(found, bytes) else found
    return text if found is None else str(found)


def _decoded(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _is_balanced(text: str) -> bool:
    """Whether a text closes the brackets that it opens: one that does not is a part of something."""
    return all(text.count(one) == text.count(other) for one, other in zip(_OPENING, _CLOSING, strict=True))


def _looks_packed(text: str) -> bool:
    """Whether a text begins as a list of Python, NumPy or JSON does."""
    opens = text[:1] in tuple(_OPENING) and (text[-1:] in tuple(_CLOSING) or not _is_balanced(text))
    return opens or _argument(text) is not None


def _argument(text: str) -> str | None:
    """Return what a call stands around, without its options; None where a text is no call."""
    call = _CALL.match(text)
    if call is None or not text.endswith(")"):
        return None
    inside = text[call.end() : -1]
    for _ in range(_MOST_WRAPPED):
        before, comma, last = inside.rpartition(",")
        if comma and _OPTION.fullmatch(last):
            inside = before
    return inside.strip()


def _unpack_literal(text: str) -> Any:
    """Read a literal of Python or NumPy; None for anything else."""
    for _ in range(_MOST_WRAPPED):
        inside = _argument(text)
        text = text if inside is None else inside
    text = _SCALAR.sub(r"\1", text)
    if not text:
        return []
    if text[:1] not in _OPENING or text[-1:] != _CLOSING[_OPENING.index(text[0])]:
        return None
    inside = text[1:-1]
    if text[0] == "{" and any(":" in (token["bare"] or "") for token in _tokens(inside)):
        return _unpack_mapping(text)
    return _items(inside)


def _tokens(text: str) -> Iterator[re.Match[str]]:
    """Yield the tokens of a text, up to what is none."""
    position = 0
    while (match := _TOKEN.match(text, position)) is not None:
        yield match
        position = match.end()


def _unpack_mapping(text: str) -> dict[Any, Any] | None:
    try:
        found = ast.literal_eval(re.sub(r"\b(?:nan|NaN|null)\b", "None", text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _items(inside: str) -> list[Any] | None:
    """Read the items of a flat list; None where one has no known form, or nothing stands between two commas."""
    parts: list[list[re.Match[str]]] = [[]]
    end = 0
    for token in _tokens(inside):
        end = token.end()
        if token["comma"]:
            parts.append([])
        else:
            parts[-1].append(token)
    if end < len(inside):
        return None
    if not parts[-1]:  # a tuple of one has a comma at its end
        parts.pop()
    items: list[Any] = []
    for part in parts:
        found = _between_commas(part)
        if not found:
            return None
        items += found
    return items


def _between_commas(tokens: list[re.Match[str]]) -> list[Any] | None:
    """Read what stands between two commas: one item, or several quoted texts or numbers, as NumPy writes them."""
    quoted = [token["quoted"] for token in tokens if token["quoted"]]
    bare = [token["bare"] for token in tokens if token["bare"]]
    if quoted:
        texts = list(map(_unquote, quoted))
        return None if bare or None in texts else texts
    if "..." in bare:  # where NumPy left items out
        return None
    if all(_NUMBER.fullmatch(text) or text in MISSING for text in bare):
        return [None if text in MISSING else text for text in bare]
    return [" ".join(bare)]


def _unquote(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError):
        return None
