"""A database whose answers can be held up or lost at a chosen query, so that races happen on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from styx_server.core.errors import Unavailable
from styx_server.store.database import Database, Row, Transaction

LOST = "the answer was lost; try again"


@dataclass
class Gate:
    """A call that is held up: `reached` is set when it has come, `open` lets it go on."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)


class Noting(Transaction):
    """A transaction that knows which queries ran in it."""

    def __init__(self, inner: Transaction, database: GatedDatabase) -> None:
        super().__init__(inner._connection)
        self.names: list[str] = []
        self._database = database

    async def fetch(self, name: str, /, **values: object) -> list[Row]:
        self.names.append(name)
        async with self._database.passing(name):
            return await super().fetch(name, **values)

    async def fetch_row(self, name: str, /, **values: object) -> Row | None:
        rows = await self.fetch(name, **values)
        return rows[0] if rows else None

    async def execute(self, name: str, /, **values: object) -> None:
        await self.fetch(name, **values)


class GatedDatabase(Database):
    """The real database, but for the gates."""

    def __init__(self, database: Database) -> None:
        super().__init__(database._connections._pool)
        self._before: dict[str, Gate] = {}
        self._after: dict[str, Gate] = {}
        self._lost: dict[str, int] = {}

    @contextmanager
    def held(self, name: str, *, answered: bool = False) -> Iterator[Gate]:
        """Holds up the next call of a query: before it is sent, or when its answer has come. The end lets it go."""
        gate = Gate()
        gates = self._after if answered else self._before
        gates[name] = gate
        try:
            yield gate
        finally:
            gates.pop(name, None)
            gate.open.set()

    def lose_answer(self, name: str, *, times: int = 1) -> None:
        """The next call of a query is carried out, its commit too, and its caller hears that the database is away."""
        self._lost[name] = times

    async def fetch(self, name: str, /, **values: object) -> list[Row]:
        async with self.passing(name):
            rows = await super().fetch(name, **values)
        self._maybe_lose([name])
        return rows

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        async with super().transaction() as transaction:
            noting = Noting(transaction, self)
            yield noting
        self._maybe_lose(noting.names)

    @asynccontextmanager
    async def passing(self, name: str) -> AsyncIterator[None]:
        """Waits at the gates of a query."""
        await _pass(self._before.pop(name, None))
        yield
        await _pass(self._after.pop(name, None))

    def _maybe_lose(self, names: list[str]) -> None:
        for name in names:
            if self._lost.get(name):
                self._lost[name] -= 1
                self.on_lost()
                raise Unavailable(LOST)


async def _pass(gate: Gate | None) -> None:
    if gate is not None:
        gate.reached.set()
        await gate.open.wait()
