"""The life of a rented machine: states, steps, what is asked of a provider, and what it answers. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, IntEnum
from typing import Final, NewType

from styx_server.core.machines.offer import Offer, Place
from styx_server.core.machines.refusal import RefusalKind
from styx_server.core.task import AgentId

InstanceId = NewType("InstanceId", int)

TAG_DEPLOYMENT: Final = "styx-deployment"
TAG_INSTANCE: Final = "styx-instance"
TAG_KEY: Final = "styx-key"
TAG_EXPIRES: Final = "styx-expires"
TAG_POOL: Final = "styx-pool"
"""What every machine carries from birth, in words that are labels on every cloud (lower case, no colon)."""


class InstanceState(IntEnum):
    """Where an instance is in its life. Numbers are those of the wire and of the database."""

    INTENT = 1
    """Stored, with the frozen request; the provider has not been asked. From now on a machine may exist."""
    CREATING = 2
    """The provider is being asked, once or again, under one idempotency key."""
    LAUNCHED = 3
    """The provider says that it exists; its agent has not joined."""
    READY = 4
    """Its agent has joined."""
    DRAINING = 5
    """It gets no new work; what runs there may end."""
    TERMINATING = 6
    """It is being given back; repeated until the provider confirms."""
    TERMINATED = 7
    """The provider has confirmed that it is gone."""
    FAILED = 8
    """The provider refused: there never was a machine."""

    @property
    def ended(self) -> bool:
        """Whether no machine of it is left, and none will come."""
        return self >= InstanceState.TERMINATED


class InstanceActor(Enum):
    """Who takes a step."""

    RENTER = "renter"
    JOIN = "join"
    SCALER = "scaler"
    USER = "user"
    SWEEPER = "sweeper"


_S = InstanceState
_A = InstanceActor

INSTANCE_TRANSITIONS: Final[dict[tuple[InstanceState, InstanceState], frozenset[InstanceActor]]] = {
    (_S.INTENT, _S.CREATING): frozenset({_A.RENTER}),
    # Nothing was asked yet, so there is nothing to give back.
    (_S.INTENT, _S.FAILED): frozenset({_A.RENTER, _A.SCALER, _A.USER}),
    (_S.CREATING, _S.LAUNCHED): frozenset({_A.RENTER, _A.SWEEPER}),
    (_S.CREATING, _S.FAILED): frozenset({_A.RENTER}),
    # It may exist: given back as if it did, until the provider's list says otherwise.
    (_S.CREATING, _S.TERMINATING): frozenset({_A.RENTER, _A.SCALER, _A.USER}),
    # The machine was quicker than the provider's answer.
    (_S.CREATING, _S.READY): frozenset({_A.JOIN}),
    (_S.LAUNCHED, _S.READY): frozenset({_A.JOIN}),
    (_S.LAUNCHED, _S.TERMINATING): frozenset({_A.RENTER, _A.SCALER, _A.USER, _A.SWEEPER}),
    (_S.READY, _S.DRAINING): frozenset({_A.SCALER, _A.USER}),
    (_S.READY, _S.TERMINATING): frozenset({_A.USER, _A.SWEEPER, _A.SCALER}),
    (_S.DRAINING, _S.TERMINATING): frozenset({_A.SCALER, _A.USER, _A.SWEEPER}),
    (_S.TERMINATING, _S.TERMINATED): frozenset({_A.RENTER, _A.SWEEPER}),
}
"""Steps of an instance. TERMINATED and FAILED are final: a machine that comes back is ended, its row stays."""


class MachineState(IntEnum):
    """What a provider says of a machine."""

    STARTING = 1
    RUNNING = 2
    ENDING = 3
    ENDED = 4
    """Gone, or stopped in a way from which it does not come back by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What the agent on a new machine is told. It offers what the offer says, not what the kernel leaves of it.

    Attributes:
        server_urls: where the servers are, as a machine out there reaches them.
        join_token: good once, and only for the agent of this instance.
        bundle_sha256: of the agent's bundle, which the servers give out under this digest; empty: it is there already.
        join_seconds: a machine that has not joined by then ends itself.
        silent_seconds: and so does one that has run nothing and heard of no server for this long.
        preemption_notice: who tells the agent that the machine is taken back, in the agent's words; empty: nobody.
    """

    server_urls: tuple[str, ...]
    join_token: str
    agent_name: str
    bundle_sha256: str = ""
    join_seconds: int = 900
    silent_seconds: int = 7200
    preemption_notice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RentOrder:
    """One machine, as a provider is asked for it. Frozen in the database before the first call; the same in every call.

    Attributes:
        key: idempotency key, at most 64 characters of [a-z0-9-]; also a good name for the machine. A second order with
            the same key must give the machine of the first.
        boot: for providers that start the agent themselves; the others find the same in `user_data`.
        image: what to boot; empty: the provider's default.
        user_data: cloud-init's, at most 16 KiB.
        tags: on the machine, and on its disks, in the same call that makes it.
        life_seconds: after that the machine ends itself, where the provider can promise it.
    """

    instance_id: InstanceId
    key: str
    offer: Offer
    tags: Mapping[str, str]
    boot: Boot
    user_data: str = ""
    image: str = ""
    disk_bytes: int = 0
    life_seconds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudMachine:
    """One machine, as a provider speaks of it.

    Attributes:
        cloud_id: the provider's own name for it, unique within provider and region.
        key: the idempotency key of its order, read back from its tags or name; empty: not one of ours.
        reason: why it ended, where the provider says; `preempted` when it took a spot machine back.
        message: the same for people, in the provider's words.
        refusal: the provider accepted the order, and it has turned out since that the machine does not come up: a
            cluster without room, an image that is not there. To be taken as the refusal of the order, and released.
    """

    place: Place
    cloud_id: str
    state: MachineState
    key: str
    tags: Mapping[str, str] = field(default_factory=dict)
    spot: bool = False
    create_time: datetime | None = None
    reason: str = ""
    message: str = ""
    refusal: RefusalKind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One row of what Styx rented.

    Attributes:
        key: the idempotency key of its order.
        cloud_id: empty until the provider has named it.
        agent_id: of the agent that joined from it.
        reason: a stable word for why it is in its state: `capacity`, `idle`, `preempted`, `never_joined`, ...
        expire_time: when it ends whatever happens.
    """

    instance_id: InstanceId
    pool: str
    state: InstanceState
    offer: Offer
    key: str
    cloud_id: str = ""
    agent_id: AgentId | None = None
    reason: str = ""
    message: str = ""
    create_time: datetime
    launch_time: datetime | None = None
    join_time: datetime | None = None
    release_time: datetime | None = None
    end_time: datetime | None = None
    expire_time: datetime | None = None
    idle_time: datetime | None = None
