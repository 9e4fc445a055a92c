"""The setting `preemption_notice`: a word for who is asked whether this machine is taken back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from styx_agent.notices.sources import DEFAULT_TERM_SECONDS, METADATA, AwsSource, FileSource, GcpSource, Source

Kind = Literal["file", "aws", "gcp", "term"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeSetting:
    """Who is asked.

    Attributes:
        kind: how it is asked.
        place: the path of a file, or the address of a metadata service.
        seconds: with `term`, from the signal to the end of the machine.
    """

    kind: Kind
    place: str = ""
    seconds: float = 0.0

    def source(self) -> Source | None:
        """Who is asked again and again; None: nobody, it comes as a signal."""
        match self.kind:
            case "file":
                return FileSource(Path(self.place))
            case "aws":
                return AwsSource(self.place)
            case "gcp":
                return GcpSource(self.place)
            case "term":
                return None


def read_setting(text: str) -> NoticeSetting:
    """Understands `file:PATH`, a plain path, `aws`, `gcp`, `term`, `term:SECONDS`, `kubernetes`.

    An address after `aws:` or `gcp:` stands for the usual metadata service.

    Raises:
        ValueError: it is something else; the text says what it may be.
    """
    word, colon, rest = text.strip().partition(":")
    if word in ("aws", "gcp"):
        if colon and not rest.startswith("http://"):
            raise ValueError(f"{word}: takes an address that begins with http://, not {rest!r}")
        return NoticeSetting(kind="aws" if word == "aws" else "gcp", place=rest or METADATA)
    if word in ("term", "kubernetes"):
        return NoticeSetting(kind="term", seconds=_seconds(rest) if colon else DEFAULT_TERM_SECONDS)
    path = rest if word == "file" and colon else text.strip()
    if not path.startswith("/"):
        raise ValueError("is file:/PATH, aws, gcp, or term:SECONDS")
    return NoticeSetting(kind="file", place=path)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 86_400:
        raise ValueError(f"term: takes the seconds from the signal to the end, not {text!r}")
    return seconds
