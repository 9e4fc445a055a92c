"""The client, for asyncio. `sync.py` drives it for everybody else.

    async with styx.AsyncClient("http://localhost:8080") as client:
        task_id = await client.submit_task("echo Hello")

Builds the parts: where the server is (`locate.py`), the connection (`channel.py`), calls (`calls.py`). The methods are
in `tasks.py`, `follow.py`, `machines.py` (agents), `renting.py` (pools, instances) and `market.py` (offers, costs).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from styx import wire
from styx.calls import Caller
from styx.channel import Connection
from styx.follow import FollowMethods
from styx.locate import locate
from styx.machines import AgentMethods
from styx.market import CostMethods, MarketMethods
from styx.models import ServerInfo
from styx.renting import InstanceMethods, PoolMethods
from styx.retry import RetrySettings, told_by_environment
from styx.tasks import TaskMethods
from styx.v1 import styx_service_pb2 as pb


class AsyncClient(TaskMethods, FollowMethods, AgentMethods, PoolMethods, InstanceMethods, MarketMethods, CostMethods):
    """A client of one deployment. Belongs to the event loop that it is first used in; connects at the first call.

    gRPC wants one event loop per process: do not use it beside `styx.Client`.
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        token: str | None = None,
        *,
        data_dir: Path | str | None = None,
        namespace: str = "",
        retry: RetrySettings | None = None,
    ) -> None:
        """Finds out where the server is; does not talk to it yet.

        Args:
            url: one address, or several with commas between or as a sequence: replicas of one deployment, of which
                any may be used; else STYX_SERVER_URL, else the server of this machine.
            token: else STYX_TOKEN, else, for a server on this machine, the admin token of its data folder.
            data_dir: the data folder of a server on this machine; else STYX_DATA_DIR, else the usual place.
            namespace: where tasks are submitted and looked for; empty: `default`.
            retry: how patient to be; else a minute, or STYX_RETRY_SECONDS.

        Raises:
            NoServer: nothing names a server.
            TokenUnreadable: the local token belongs to somebody else.
        """
        settings = retry or told_by_environment()
        target = locate(url, token, data_dir=data_dir)
        connection = Connection(target, connect_timeout_seconds=settings.connect_timeout_seconds)
        self._caller = Caller(connection, settings)
        self._namespace = namespace

    async def server_info(self) -> ServerInfo:
        """What the server is, and how it does."""
        return wire.from_message(ServerInfo, await self._caller.unary("GetServerInfo", pb.GetServerInfoRequest()))

    async def close(self) -> None:
        """Closes the connection; calls under way are cancelled, later ones refused."""
        await self._caller.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
