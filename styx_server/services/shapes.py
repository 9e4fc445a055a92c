"""Interned shapes: what scheduling looks at, stored once each and kept in memory both ways."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from styx_server.core.states import Reason
from styx_server.core.task import Shape
from styx_server.store.database import Database
from styx_server.store.rows import shape_digest, shape_from_json, shape_to_json


class Shapes:
    """All shapes that were ever submitted, and why tasks of each wait."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ids: dict[Shape, int] = {}
        self._shapes: dict[int, Shape] = {}
        self._verdicts: dict[Shape, tuple[str, str]] = {}

    async def load(self) -> None:
        """Reads what is stored."""
        for row in await self._database.fetch("get_shapes"):
            shape = shape_from_json(row["body"])
            self._know(shape, row["id"])
            self._verdicts[shape] = (row["reason"], row["message"])

    async def intern(self, shapes: Iterable[Shape]) -> dict[Shape, int]:
        """The id of each shape; new ones are stored."""
        wanted = set(shapes)
        for shape in wanted - self._ids.keys():
            row = await self._database.fetch_row("intern_shape", digest=shape_digest(shape), body=shape_to_json(shape))
            # Not visible only when another transaction stored it this moment: then it is on the second look.
            if row is None:
                row = await self._database.fetch_row(
                    "intern_shape", digest=shape_digest(shape), body=shape_to_json(shape)
                )
            assert row is not None
            self._know(shape, row["id"])
        return {shape: self._ids[shape] for shape in wanted}

    async def get(self, shape_id: int) -> Shape:
        """The shape with this id."""
        if shape_id not in self._shapes:
            await self.load()
        return self._shapes[shape_id]

    async def explain(self, verdicts: Mapping[Shape, tuple[Reason, str]]) -> None:
        """Records why tasks of these shapes wait, where that is new."""
        news = {
            shape: (str(reason), message)
            for shape, (reason, message) in verdicts.items()
            if self._verdicts.get(shape) != (str(reason), message)
        }
        if not news:
            return
        await self._database.execute(
            "explain_shapes",
            ids=[self._ids[shape] for shape in news],
            reasons=[reason for reason, _ in news.values()],
            messages=[message for _, message in news.values()],
        )
        self._verdicts.update(news)

    def _know(self, shape: Shape, shape_id: int) -> None:
        self._ids[shape] = shape_id
        self._shapes[shape_id] = shape
