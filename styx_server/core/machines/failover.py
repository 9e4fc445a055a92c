"""Where not to try again, and until when: what providers refused, remembered for all that wait.

A block has a key like a row of table `refusals`, where replicas share it. It doubles each time that the same is refused
again soon after, and is forgotten after a quiet time. Next: `refusal.py`, what each refusal means; `choose.py`, which
leaves out what is blocked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from styx_server.core.machines.offer import Offer, Place
from styx_server.core.machines.refusal import RULES, RefusalKind, Rule, Scope

PREEMPTED: Final = "preempted"
"""The kind of a block that no refusal made: the provider took a spot machine back."""
PREEMPTED_RULE: Final = Rule(scope=Scope.ZONE, seconds=1800, most_seconds=7200)
"""Where one spot machine was taken back, the next is soon taken too; elsewhere is better, if there is an elsewhere."""

NEVER_JOINED: Final = "never_joined"
"""The kind of another one: a machine was rented there and paid for, and its agent never came."""
NEVER_JOINED_RULE: Final = Rule(scope=Scope.REGION, seconds=120, most_seconds=7200)
"""Its image, its network or its way to the servers; the next machine there most likely has the same."""

ON_DEMAND: Final = 0
SPOT: Final = 1
BOTH: Final = 2

_WORDS: Final[dict[str, str]] = {
    RefusalKind.CAPACITY: "no capacity",
    RefusalKind.QUOTA: "the account's quota is used up",
    RefusalKind.PERMISSION: "the identity may not rent",
    RefusalKind.CREDENTIALS: "the credentials are not accepted",
    RefusalKind.BAD_IMAGE: "the image is not good there",
    RefusalKind.BAD_TYPE: "there is no such type",
    RefusalKind.BAD_REQUEST: "the request was refused as wrong",
    RefusalKind.UNAVAILABLE: "the provider fails",
    RefusalKind.TIMEOUT: "the provider does not answer",
    PREEMPTED: "a spot machine was taken back there",
    NEVER_JOINED: "a machine that was rented there never called back",
}


_MOST_SECONDS: Final[dict[str, float]] = {
    PREEMPTED: PREEMPTED_RULE.most_seconds,
    NEVER_JOINED: NEVER_JOINED_RULE.most_seconds,
    **{kind: rule.most_seconds for kind, rule in RULES.items()},
}
# For kinds that only a newer server knows.
_LONGEST_SECONDS: Final = max(_MOST_SECONDS.values())


class BlockKey(NamedTuple):
    """What is blocked. An empty part means any; `machine_type` is that of `type_key`."""

    provider: str
    region: str = ""
    zone: str = ""
    machine_type: str = ""
    spot: int = BOTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What a provider said instead of renting.

    Attributes:
        scope: how much it speaks of; None: what the rule for `kind` says.
        code: the provider's own word.
        retry_after_seconds: when the provider said so.
    """

    kind: RefusalKind
    scope: Scope | None = None
    code: str = ""
    message: str = ""
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Something that is not tried for a while.

    Attributes:
        kind: a `RefusalKind`, or `preempted`.
        strikes: how often in a row; the first is 1.
        time: of the last strike.
    """

    key: BlockKey
    kind: str
    code: str = ""
    message: str = ""
    strikes: int = 1
    time: datetime
    until: datetime

    @property
    def soft(self) -> bool:
        """Whether it may be tried all the same when there is nothing else."""
        return self.kind == PREEMPTED

    @property
    def words(self) -> str:
        """For people: why, and until when."""
        clock = self.until.astimezone(UTC).strftime("%H:%M")
        return f"{'avoided' if self.soft else 'blocked'} until {clock} UTC: {_WORDS.get(self.kind, self.kind)}"


class Blocks:
    """What is blocked now. Changes return what is to be stored or deleted, so that other replicas learn of it."""

    def __init__(self, blocks: Iterable[Block] = ()) -> None:
        self._blocks: dict[tuple[str, str, str, str, int], Block] = {block.key: block for block in blocks}
        self._masks = {_mask(block.key) for block in self._blocks.values()}

    def __iter__(self) -> Iterator[Block]:
        return iter(self._blocks.values())

    def __len__(self) -> int:
        return len(self._blocks)

    def why(self, offer: Offer, now: datetime) -> Block | None:
        """The block that keeps `offer` from being tried; of several a hard one, and the one that lasts longest."""
        if not self._blocks:
            return None
        found = [block for block in self._about(offer) if block.until > now]
        return max(found, key=lambda block: (not block.soft, block.until), default=None) if found else None

    def refuse(self, offer: Offer, refusal: Refusal, now: datetime) -> Block | None:
        """Remembers that `offer` was refused; returns what is now blocked, None when nothing is."""
        key = _key_of(offer, refusal.scope or RULES[refusal.kind].scope)
        if key is None:
            return None
        block = Block(key=key, kind=refusal.kind.value, code=refusal.code, message=refusal.message, time=now, until=now)
        return self._strike(block, RULES[refusal.kind], refusal.retry_after_seconds or 0.0)

    def preempt(self, place: Place, now: datetime) -> Block:
        """Remembers that a spot machine was taken back in `place`; returns the soft block."""
        key = BlockKey(place.provider, place.region, place.zone, "", SPOT)
        return self._strike(Block(key=key, kind=PREEMPTED, time=now, until=now), PREEMPTED_RULE, 0.0)

    def absent(self, place: Place, now: datetime) -> Block:
        """Remembers that the agent of a machine in `place` never came; returns the block."""
        key = BlockKey(place.provider, place.region)
        return self._strike(Block(key=key, kind=NEVER_JOINED, time=now, until=now), NEVER_JOINED_RULE, 0.0)

    def succeed(self, offer: Offer) -> list[BlockKey]:
        """Forgets what a successful rent disproves; returns the keys that are to be deleted."""
        # That a machine was to be had does not say that it will not be taken back, nor that its agent will come.
        keys = [block.key for block in self._about(offer) if block.kind not in {PREEMPTED, NEVER_JOINED}]
        for key in keys:
            del self._blocks[key]
        return keys

    def forget(self, now: datetime) -> list[BlockKey]:
        """Drops what is over and was quiet for so long that its strikes count no more; returns those keys."""
        keys = [block.key for block in self._blocks.values() if _is_quiet(block, now)]
        for key in keys:
            del self._blocks[key]
        return keys

    def _strike(self, fresh: Block, rule: Rule, least_seconds: float) -> Block:
        old = self._blocks.get(fresh.key)
        if old is None or _is_quiet(old, fresh.time) or old.kind != fresh.kind:
            timed = _timed(fresh, rule, 1, least_seconds)
            return old if old is not None and _outweighs(old, timed) else self._put(timed)
        if old.until > fresh.time:
            # Calls that were under way together: one strike.
            return old
        return self._put(_timed(fresh, rule, old.strikes + 1, least_seconds))

    def _put(self, block: Block) -> Block:
        self._blocks[block.key] = block
        self._masks.add(_mask(block.key))
        return block

    def _about(self, offer: Offer) -> list[Block]:
        place, kind = offer.place, type_key(offer)
        provider, region, zone = place.provider, place.region, place.zone
        found = []
        for has_region, has_zone, has_type, spot in self._masks:
            # An offer that leaves the zone to the provider is not in a certain one.
            if spot not in {BOTH, offer.spot} or (has_zone and not zone):
                continue
            key = (provider, region if has_region else "", zone if has_zone else "", kind if has_type else "", spot)
            block = self._blocks.get(key)  # a key is a tuple, and plain ones are made quicker
            if block is not None:
                found.append(block)
        return found


def type_key(offer: Offer) -> str:
    """The type as blocks know it: accelerators that are asked for beside the type run out by themselves."""
    size = offer.size
    return f"{offer.machine_type}+{size.gpu_name}:{size.gpu_count}" if offer.gpus_attached else offer.machine_type


def seconds_of(rule: Rule, strikes: int, least_seconds: float = 0.0) -> float:
    """For how long the `strikes`-th time in a row blocks."""
    # Beyond 2^40 every rule is at its most, and a float can hold no more than 2^1023.
    doubled = rule.seconds * 2.0 ** min(strikes - 1, 40)
    return min(max(doubled, least_seconds), rule.most_seconds)


def _timed(block: Block, rule: Rule, strikes: int, least_seconds: float) -> Block:
    return Block(
        key=block.key,
        kind=block.kind,
        code=block.code,
        message=block.message,
        strikes=strikes,
        time=block.time,
        until=block.time + timedelta(seconds=seconds_of(rule, strikes, least_seconds)),
    )


def _outweighs(old: Block, fresh: Block) -> bool:
    """Whether a block that holds still is to stay, although there is another reason for one now."""
    return old.until > fresh.time and (not old.soft, old.until) >= (not fresh.soft, fresh.until)


def _is_quiet(block: Block, now: datetime) -> bool:
    return now >= block.until + timedelta(seconds=_MOST_SECONDS.get(block.kind, _LONGEST_SECONDS))


def _key_of(offer: Offer, scope: Scope) -> BlockKey | None:
    place, spot = offer.place, int(offer.spot)
    match scope:
        case Scope.NOTHING:
            return None
        case Scope.OFFER:
            return BlockKey(place.provider, place.region, place.zone, type_key(offer), spot)
        case Scope.TYPE:
            return BlockKey(place.provider, place.region, "", type_key(offer), spot)
        case Scope.ZONE:
            return BlockKey(place.provider, place.region, place.zone)
        case Scope.REGION:
            return BlockKey(place.provider, place.region, "", "", spot)
        case Scope.PROVIDER:
            return BlockKey(place.provider)


def _mask(key: BlockKey) -> tuple[bool, bool, bool, int]:
    return bool(key.region), bool(key.zone), bool(key.machine_type), key.spot
