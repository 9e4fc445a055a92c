"""Who is calling: bearer tokens, of people and of agents, held against digests.

Only digests are stored. A token is text of the form `styx_<kind>_<secret>`, an agent's `styx_agent_<id>_<secret>`.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Final

from styx_server.clock import Clock
from styx_server.core.errors import Unauthenticated
from styx_server.core.task import AgentId
from styx_server.store.database import Database

_CACHE_SECONDS: Final = 5.0
"""How long a good token is trusted without a look; also how long a revoked one may go on."""
_CACHE_SIZE: Final = 10_000


class Role(Enum):
    """What a caller is."""

    ADMIN = "admin"
    AGENT = "agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Somebody with a good token. `number` is the id of the token, or of the agent."""

    role: Role
    number: int
    token: str

    @property
    def agent_id(self) -> AgentId:
        """The agent, when it is one."""
        assert self.role is Role.AGENT
        return AgentId(self.number)


class Access:
    """Knows tokens."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._good: dict[bytes, tuple[float, Caller]] = {}

    async def authenticate(self, token: str) -> Caller:
        """Who has this token.

        Raises:
            Unauthenticated: nobody.
        """
        key = digest(token)
        now = self._clock.monotonic()
        cached = self._good.get(key)
        if cached is not None and now < cached[0]:
            return cached[1]
        caller = await (self._agent(token) if token.startswith("styx_agent_") else self._person(token, key))
        if len(self._good) >= _CACHE_SIZE:
            self._good.clear()
        self._good[key] = (now + _CACHE_SECONDS, caller)
        return caller

    async def ensure_admin(self, token: str) -> None:
        """Makes `token` an administrator's, if it is not yet."""
        await self._database.execute(
            "insert_token", kind="admin", digest=digest(token), expire_time=None, max_uses=None, pool=None, labels={}
        )

    async def _person(self, token: str, key: bytes) -> Caller:
        row = await self._database.fetch_row("find_token", digest=key, now=None)
        if row is None or row["kind"] != "admin":
            raise Unauthenticated(
                "the token is not known here; set STYX_TOKEN, or use the admin.token of this server's data folder"
            )
        return Caller(role=Role.ADMIN, number=row["id"], token=token)

    async def _agent(self, token: str) -> Caller:
        number, _, secret = token.removeprefix("styx_agent_").partition("_")
        known = number.isascii() and number.isdigit() and len(number) <= 18
        row = await self._database.fetch_row("find_agent_key", id=int(number)) if known else None
        if row is None or not hmac.compare_digest(row["key_digest"], digest(secret)):
            raise Unauthenticated("the agent is not known here; join again with a new join token")
        if row["removed"]:
            raise removed_agent(AgentId(row["id"]))
        return Caller(role=Role.AGENT, number=row["id"], token=token)


def removed_agent(agent_id: AgentId) -> Unauthenticated:
    """What an agent that was removed is told; nobody else is, because it is said only after the secret was right."""
    text = (
        f"agent a{agent_id} was removed; to take its machine in again, end what runs there, delete the agent's data "
        "folder and join with a new join token"
    )
    return Unauthenticated(text, reason="AGENT_REMOVED", agent_id=f"a{agent_id}")


def digest(secret: str) -> bytes:
    """SHA-256: secrets have 256 random bits, so a slow hash would protect nothing."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def derive_secret(caller: Caller, purpose: str) -> str:
    """A secret that only this caller's token and `purpose` give: a repeated request gets the same answer."""
    return hmac.new(caller.token.encode(), purpose.encode(), hashlib.sha256).hexdigest()


DEFAULT_JOIN_TTL: Final = timedelta(minutes=15)
MAX_JOIN_TTL: Final = timedelta(days=365)
