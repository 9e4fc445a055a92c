"""Writes plain data as YAML: what JSON can say, in block style. Pure; there is nothing here to read YAML with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

# Words that some reader of YAML takes for a truth value, nothing, or a number are quoted.
_SAFE = re.compile(r"(?!(?:true|false|null|yes|no|on|off|y|n|nan|inf)$)[A-Za-z_][A-Za-z0-9_./-]*", re.IGNORECASE)


def dump(data: Any) -> str:
    """The document, without a line end."""
    return "\n".join(_lines(data, ""))


def _lines(data: Any, indent: str) -> Iterator[str]:
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _entry(f"{indent}{_scalar(str(key))}:", value, indent)
    elif isinstance(data, list) and data:
        for item in data:
            yield from _item(item, indent)
    else:
        yield indent + _scalar(data)


def _entry(head: str, value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, dict | list) and value:
        yield head
        yield from _lines(value, indent + "  ")
    else:
        yield f"{head} {_scalar(value)}"


def _item(item: Any, indent: str) -> Iterator[str]:
    """An item of a list: its first line begins with the dash."""
    first, *rest = _lines(item, indent + "  ")
    yield f"{indent}- {first[len(indent) + 2 :]}"
    yield from rest


def _scalar(value: Any) -> str:
    if isinstance(value, dict | list):
        return "{}" if isinstance(value, dict) else "[]"
    if isinstance(value, str):
        return value if _SAFE.fullmatch(value) else _quoted(value)
    text = json.dumps(value)
    # Older readers take a number with an exponent for one only when it has a point.
    return text.replace("e", ".0e", 1) if isinstance(value, float) and "e" in text and "." not in text else text


def _quoted(text: str) -> str:
    """In double quotes, with the escapes that YAML and JSON share; the rest of Unicode as YAML writes it."""
    escaped = json.dumps(text, ensure_ascii=False)
    return "".join(char if _printable(char) else _escape(char) for char in escaped)


def _printable(char: str) -> bool:
    return " " <= char <= "~" or "\xa0" <= char <= "\ud7ff" or ("\ue000" <= char <= "\ufffd" and char != "\ufeff")


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) <= 0xFFFF else f"\\U{ord(char):08x}"
