"""Who can say that this machine is taken back, and how each says it.

    file:PATH    a file with {"deadline": seconds since 1970}
    aws          EC2's metadata: spot/instance-action, about two minutes before
    gcp          Compute Engine's metadata: instance/preempted, about 30 seconds before
    term:SECONDS the signal to end, as Kubernetes sends it to a pod; not asked, see `eviction.py`

Each `look` is one question, made in a thread. Next: `watching.py`, which asks again and again.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

import structlog

from styx_agent import clock
from styx_agent.notices.metadata import SECONDS, Answer, MetadataError, ask
from styx_agent.notices.notice import SECOND, STALE_MICROS, Notice, notice_in

log = structlog.get_logger(__name__)

METADATA: Final = "http://169.254.169.254"
DEFAULT_TERM_SECONDS: Final = 30.0
"""Kubernetes' own terminationGracePeriodSeconds."""
_AWS_SECONDS: Final = (5.0, 120.0)
"""What is left, least and most, whatever the clock of this machine makes of a time of the day."""
_AWS_TOKEN_SECONDS: Final = 21_600
_GCP_SECONDS: Final = 30.0
_GCP_WAIT_SECONDS: Final = 60


class Source(Protocol):
    """Somebody who can be asked.

    Attributes:
        pause_seconds: between two looks.
    """

    pause_seconds: float

    def look(self, *, waits: bool) -> Notice | None:
        """Asks once; may take a minute if it `waits`, because some answer when there is news.

        Raises:
            MetadataError: it does not answer.
        """
        ...


class FileSource:
    """A file that appears, or that is there."""

    pause_seconds = 0.25

    def __init__(self, path: Path) -> None:
        self._path = path

    def look(self, *, waits: bool) -> Notice | None:
        """Reads it. A notice that is long past is of an earlier time."""
        del waits
        try:
            deadline = float(json.loads(self._path.read_text(encoding="utf-8"))["deadline"])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise MetadataError(f"{self._path} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):
            raise MetadataError(f'{self._path} is not {{"deadline": seconds since 1970}}') from None
        left = deadline - clock.realtime_micros() / SECOND
        if left * SECOND < -STALE_MICROS:
            return None
        return notice_in(left, str(self._path), clock.boottime_micros())


class AwsSource:
    """The metadata service of EC2, version 2: a token first, then everything else."""

    pause_seconds = 2.0

    def __init__(self, base: str = METADATA) -> None:
        self._base = base
        self._token = ""
        self._advised = False

    def look(self, *, waits: bool) -> Notice | None:
        """Asks for the action that is scheduled."""
        del waits
        text = self._get("/latest/meta-data/spot/instance-action")
        if text is None:
            self._note_advice()
            return None
        # Whatever the action is: to be stopped or put to sleep ends what runs as surely as to be terminated.
        left = _AWS_SECONDS[0]
        try:
            at = datetime.fromisoformat(json.loads(text)["time"])
            left = at.timestamp() - clock.realtime_micros() / SECOND
        except (ValueError, KeyError, TypeError):
            log.warning("preemption_notice_unclear", source="aws", text=text[:200])
        left = min(max(left, _AWS_SECONDS[0]), _AWS_SECONDS[1])
        return notice_in(left, "aws", clock.boottime_micros())

    def _note_advice(self) -> None:
        """A rebalance recommendation is no notice: such machines often live on for hours."""
        if not self._advised and self._get("/latest/meta-data/events/recommendations/rebalance") is not None:
            self._advised = True
            log.info("rebalance_recommended", source="aws")

    def _get(self, path: str) -> str | None:
        answer = self._ask(path)
        if answer.status == 401:  # the token has expired
            self._token = ""
            answer = self._ask(path)
        if answer.status not in (200, 404):
            raise MetadataError(f"{self._base}{path}: status {answer.status}")
        return answer.text if answer.status == 200 else None

    def _ask(self, path: str) -> Answer:
        if not self._token:
            self._token = self._new_token()
        return ask(self._base, path, {"X-aws-ec2-metadata-token": self._token})

    def _new_token(self) -> str:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(_AWS_TOKEN_SECONDS)}
        answer = ask(self._base, "/latest/api/token", headers, method="PUT")
        if answer.status != 200:
            raise MetadataError(f"{self._base}: no token, status {answer.status}")
        return answer.text.strip()


class GcpSource:
    """The metadata service of Compute Engine, which answers when something changes."""

    pause_seconds = 0.0

    def __init__(self, base: str = METADATA) -> None:
        self._base = base
        self._etag = ""

    def look(self, *, waits: bool) -> Notice | None:
        """Asks whether it is being preempted; after the first answer, when that has changed."""
        path, seconds = "/computeMetadata/v1/instance/preempted", SECONDS
        if waits and self._etag:
            path += f"?wait_for_change=true&last_etag={self._etag}&timeout_sec={_GCP_WAIT_SECONDS}"
            seconds += _GCP_WAIT_SECONDS
        answer = ask(self._base, path, {"Metadata-Flavor": "Google"}, seconds=seconds)
        if answer.status != 200:
            raise MetadataError(f"{self._base}{path}: status {answer.status}")
        if not answer.etag:
            raise MetadataError(f"{self._base}: an answer without an ETag is not Compute Engine's")
        self._etag = answer.etag
        if answer.text.strip().upper() != "TRUE":
            return None
        return notice_in(_GCP_SECONDS, "gcp", clock.boottime_micros())
