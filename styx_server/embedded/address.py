"""Where a PostgreSQL is and who may enter: a value, nothing more. It opens no connection."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypedDict
from urllib.parse import quote, urlencode


class ConnectArguments(TypedDict):
    """Keyword arguments for `asyncpg.connect` and `asyncpg.create_pool`."""

    host: str
    port: int
    user: str
    password: str
    database: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresAddress:
    """One database of a cluster.

    Attributes:
        host: folder of the unix socket (it starts with a slash), or a host name.
        port: always said, because a driver would otherwise take it from the environment.
    """

    host: str
    user: str
    password: str = field(repr=False)
    database: str
    port: int = 5432

    def arguments(self) -> ConnectArguments:
        """The address as `asyncpg.connect(**arguments)` takes it."""
        return ConnectArguments(
            host=self.host, port=self.port, user=self.user, password=self.password, database=self.database
        )

    def with_database(self, database: str) -> PostgresAddress:
        """Another database of the same cluster."""
        return replace(self, database=database)

    @property
    def url(self) -> str:
        """The address as a `postgresql://` URL. It holds the password."""
        place = urlencode({"host": self.host, "port": self.port})
        return f"postgresql://{quote(self.user)}:{quote(self.password, safe='')}@/{quote(self.database)}?{place}"
