"""Keeps untrusted text from driving the terminal: names, messages, and above all the output of tasks.

What passes is text, tabs, line ends, and colours (SGR sequences). Every other control sequence is removed, every other
control character is shown as a visible sign, and a lone carriage return begins a new line instead of painting over the
old one. Works on bytes as they come: cutting the input anywhere gives the same output. Pure; nothing is printed here.
"""

from __future__ import annotations

import codecs
import re
from enum import Enum, auto

_LONGEST_SGR = 64

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
# Line and paragraph separators, the byte order mark, interlinear marks, and tags: all invisible, all able to mislead.
_INVISIBLE = "\u2028\u2029\u200b\u2060-\u2064\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
_SPECIAL = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff{_BIDI}{_INVISIBLE}]")
_SPECIAL_IN_PLAIN = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff{_BIDI}{_INVISIBLE}]")
_SGR_PARAMETERS = re.compile(r"[0-9;:]*", re.ASCII)

_ESC, _CR, _BEL, _CAN, _SUB = "\x1b", "\r", "\x07", "\x18", "\x1a"
_C1_CSI, _C1_ST = "\x9b", "\x9c"
_C1_STRINGS = "\x90\x98\x9d\x9e\x9f"
_RESET = "\x1b[0m"


class _State(Enum):
    TEXT = auto()
    AFTER_CR = auto()
    ESCAPE = auto()
    ESCAPE_MIDDLE = auto()
    CSI = auto()
    STRING = auto()
    STRING_ESCAPE = auto()


class TerminalFilter:
    """One stream of output on its way to a terminal."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._state = _State.TEXT
        self._parameters = ""
        self._colored = False
        self._out: list[str] = []

    def feed(self, data: bytes) -> str:
        """What may be shown of the next bytes; the beginning of a sequence is held back until its end is there."""
        return self._pass(self._decoder.decode(data))

    def finish(self) -> str:
        """What is left at the end of the stream: half a character, a held line end, and the colours put back."""
        text = self._pass(self._decoder.decode(b"", final=True))
        if self._state is _State.AFTER_CR:
            text += "\n"
        self._state = _State.TEXT
        if self._colored:
            self._colored = False
            text += _RESET
        return text

    def _pass(self, text: str) -> str:
        position = 0
        while position < len(text):
            position = self._text(text, position) if self._state is _State.TEXT else self._step(text, position)
        out, self._out = "".join(self._out), []
        return out

    def _text(self, text: str, position: int) -> int:
        """Copies up to the next character that needs a look, and looks at it."""
        found = _SPECIAL.search(text, position)
        end = found.start() if found else len(text)
        if end > position:
            self._out.append(text[position:end])
        if not found:
            return end
        self._begin(text[end])
        return end + 1

    def _begin(self, char: str) -> None:
        if char == _ESC:
            self._state = _State.ESCAPE
        elif char == _CR:
            self._state = _State.AFTER_CR
        elif char == _C1_CSI:
            self._state, self._parameters = _State.CSI, ""
        elif char in _C1_STRINGS:
            self._state = _State.STRING
        else:
            self._out.append(_visible(char))

    def _step(self, text: str, position: int) -> int:
        """One character outside plain text; returns the same position when the character is to be looked at again."""
        char = text[position]
        match self._state:
            case _State.AFTER_CR:
                return self._after_cr(char, position)
            case _State.ESCAPE:
                return self._escape(char, position)
            case _State.ESCAPE_MIDDLE:
                return self._escape_middle(char, position)
            case _State.CSI:
                return self._csi(char, position)
            case _State.STRING_ESCAPE:
                self._state = _State.TEXT if char == "\\" else _State.ESCAPE
                return position + 1 if char == "\\" else position
            case _:
                return self._string(char, position)

    def _after_cr(self, char: str, position: int) -> int:
        if char == _CR:
            return position + 1
        self._state = _State.TEXT
        self._out.append("\n")
        return position + 1 if char == "\n" else position

    def _escape(self, char: str, position: int) -> int:
        if char == "[":
            self._state, self._parameters = _State.CSI, ""
        elif char in "]PX^_":
            self._state = _State.STRING
        elif " " <= char <= "/":
            self._state = _State.ESCAPE_MIDDLE
        elif "0" <= char <= "~":
            self._state = _State.TEXT
        else:
            self._state = _State.TEXT
            return position
        return position + 1

    def _escape_middle(self, char: str, position: int) -> int:
        if " " <= char <= "/":
            return position + 1
        self._state = _State.TEXT
        return position + 1 if "0" <= char <= "~" else position

    def _csi(self, char: str, position: int) -> int:
        if " " <= char <= "?":
            if len(self._parameters) <= _LONGEST_SGR:
                self._parameters += char
            return position + 1
        self._state = _State.TEXT
        if not "@" <= char <= "~":
            return position
        if char == "m" and len(self._parameters) <= _LONGEST_SGR and _SGR_PARAMETERS.fullmatch(self._parameters):
            self._colored = self._parameters.strip("0;:") != ""
            self._out.append(f"{_ESC}[{self._parameters}m")
        return position + 1

    def _string(self, char: str, position: int) -> int:
        if char == _ESC:
            self._state = _State.STRING_ESCAPE
            return position + 1
        if char in (_BEL, _CAN, _SUB, _C1_ST):
            self._state = _State.TEXT
            return position + 1
        if char in "\n\r":
            # A string that never ends must not swallow the rest of the output.
            self._state = _State.TEXT
            return position
        return position + 1


def plain(text: str, *, keep_lines: bool = False) -> str:
    """Text for one cell or one message: no control character at all, not even a colour; each becomes visible."""
    pattern = _SPECIAL if keep_lines else _SPECIAL_IN_PLAIN
    return pattern.sub(lambda found: _visible(found.group()), text)


def _visible(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"
