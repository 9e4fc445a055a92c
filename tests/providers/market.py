"""What a double of a provider must offer so that `test_behaviour.py` can be run against it.

A market is the provider under test, connected to a double of its cloud, and a hand on the other side of the counter.
Each module `<provider>_market.py` in this folder has `open_market(folder)`, an async context manager that gives one;
`conftest.py` finds them. Doubles list machines in pages of two, where their provider has pages at all, so that a few
machines are more than one page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from styx_server.core.machines.instance import CloudMachine, RentOrder
from styx_server.core.machines.refusal import RefusalKind
from styx_server.providers.ports import Provider

PAGE = 2


class Market(Protocol):
    """A double of one provider.

    Attributes:
        provider: connected to the double.
        deployment: whose machines `order` asks for.
    """

    provider: Provider
    deployment: str

    def order(self, key: str, *, number: int = 1, spot: bool = False) -> RentOrder:
        """A good order. Raises LookupError when the provider has no spot machines."""
        ...

    async def ledger(self) -> Sequence[CloudMachine]:
        """Every machine that the double ever made, in its true state, whoever it belongs to."""
        ...

    async def refuse(self, kind: RefusalKind, times: int = 1) -> None:
        """The next rents are refused in the provider's own way. Raises LookupError when it has no words for this."""
        ...

    async def lose_answer(self, times: int = 1) -> None:
        """The next rents are carried out, and their answers are lost. Raises LookupError when they cannot be."""
        ...

    async def preempt(self, cloud_id: str) -> None:
        """The provider takes a spot machine back."""
        ...

    async def plant_foreign(self) -> str:
        """A machine of somebody else in the same account and region; its cloud id."""
        ...

    async def settle(self) -> None:
        """Lets the double's delays pass: what starts has started, what ends has ended."""
        ...

    async def close(self) -> None:
        """Ends the provider and the double."""
        ...
