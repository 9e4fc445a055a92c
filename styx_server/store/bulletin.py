"""Short notes between servers on one database, through LISTEN and NOTIFY, and a server's sign of life.

A note may be lost, come late or come twice: it only says where to look sooner, and a poll stands behind each kind.
Notes never ride in a transaction of the work itself, because commits that notify wait for one another.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Any, Final

import asyncpg
import structlog

from styx_server.clock import Clock
from styx_server.core.errors import Unavailable
from styx_server.store.database import Row, open_connection, translated

_log = structlog.get_logger()

_CHANNEL: Final = "styx"
_LIFE_CLASS: Final = 1400142200
"""Class of the advisory locks that are signs of life; `live_replicas` counts them."""
_GAP_SECONDS: Final = 0.01
"""Least time between two notes: what gathers meanwhile goes into one."""
_RETRY_SECONDS: Final = 1.0
_POST: Final = "select pg_notify($1, $2)"
_POST_SECONDS: Final = 5.0
_IDS_IN_NOTE: Final = 300
"""PostgreSQL takes 8,000 bytes; an id has at most 19 digits."""
_MOST_IDS: Final = 30_000
"""More than these are not named: everything is to be looked at."""


class Kind(StrEnum):
    """What a note is about."""

    FEED = "feed"
    """Tasks changed."""
    AGENTS = "agents"
    """Sessions of these agents began or ended, or an operator changed their standing."""
    ORDERS = "orders"
    """These agents have something to start or to stop."""
    LOGS = "logs"
    """Output of these tasks was stored."""
    LOOKS = "looks"
    """Somebody on the sending server follows the output of these tasks."""


OnNote = Callable[[int, Kind, list[int] | None], None]
"""Takes the sender's number, the kind, and the ids; None: too many to name, or some were missed."""


class Bulletin:
    """This server's place on the board.

    Args:
        number: of this server, see `replica_number` in the schema.
        address: as `database.connect` takes it. Must lead to PostgreSQL itself, not to a pooler of transactions.
        on_note: told of every note of other servers; after a gap, of every kind with None.
    """

    def __init__(self, number: int, address: dict[str, Any], on_note: OnNote, clock: Clock) -> None:
        self._number = number
        self._address = address
        self._on_note = on_note
        self._clock = clock
        self._waiting: dict[Kind, set[int]] = {}
        self._posted = asyncio.Event()
        self._connection: asyncpg.Connection[Row] | None = None
        self.has_readers = False

    async def open(self) -> None:
        """Gives the first sign of life; to be called before this server opens any session.

        Raises:
            Unavailable: the database is away.
        """
        self._connection = await self._connect()

    def post(self, kind: Kind, ids: Iterable[int] = ()) -> None:
        """Tells the other servers, soon; nothing when there are none."""
        if not self.has_readers:
            return
        self._waiting.setdefault(kind, set()).update(ids)
        self._posted.set()

    async def run(self) -> None:
        """Reads and writes notes for ever, and keeps the sign of life."""
        while True:
            try:
                connection = self._connection or await self._connect()
                self._connection = None
                try:
                    await self._serve(connection)
                finally:
                    connection.terminate()
            except Unavailable as error:
                _log.warning("bulletin_lost", error=str(error))
            await self._clock.sleep(_RETRY_SECONDS)

    async def _connect(self) -> asyncpg.Connection[Row]:
        connection = await open_connection(**self._address)
        try:
            with translated():
                await connection.add_listener(_CHANNEL, self._hear)
                await connection.execute("set synchronous_commit to off")
                # Shared: a connection of this server that is dead and does not know it may still hold it.
                await connection.fetchval("select pg_advisory_lock_shared($1, $2)", _LIFE_CLASS, self._number)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _serve(self, connection: asyncpg.Connection[Row]) -> None:
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _connection: lost.set())
        connection.add_termination_listener(lambda _connection: self._posted.set())
        for kind in Kind:
            self._on_note(self._number, kind, None)
        while not lost.is_set() and not connection.is_closed():
            await self._posted.wait()
            self._posted.clear()
            if self._waiting:
                waiting, self._waiting = self._waiting, {}
                for payload in _payloads(self._number, waiting):
                    with translated():
                        await connection.execute(_POST, _CHANNEL, payload, timeout=_POST_SECONDS)
                await self._clock.sleep(_GAP_SECONDS)

    def _hear(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        try:
            note = json.loads(str(payload))
            sender = int(note.pop("from"))
            known = [(Kind(word), ids) for word, ids in note.items() if word in set(Kind)]
        except (ValueError, KeyError, TypeError, AttributeError):
            _log.warning("note_unreadable", length=len(str(payload)))
            return
        if sender == self._number:
            return
        for kind, ids in known:
            self._on_note(sender, kind, ids)


def _payloads(number: int, waiting: dict[Kind, set[int]]) -> Iterator[str]:
    """What waits, in notes that PostgreSQL takes."""
    for kind, ids in waiting.items():
        named = sorted(ids)
        if len(named) > _MOST_IDS:
            yield _note(number, kind, None)
            continue
        for start in range(0, max(1, len(named)), _IDS_IN_NOTE):
            yield _note(number, kind, named[start : start + _IDS_IN_NOTE])


def _note(number: int, kind: Kind, ids: list[int] | None) -> str:
    return json.dumps({"from": number, kind: ids}, separators=(",", ":"))
