"""Times in the life of a rented machine, and how they shrink together for tests."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineTerms:
    """Seconds, all of them.

    Attributes:
        call: a provider's answer is waited for so long; then its fate is unknown, and the same call is made again.
        first_pause: before a call is made again; doubles each time.
        longest_pause: and never grows past this.
        give_up: a machine of which nobody knows whether it exists is given back after this long.
        join: a machine that exists must have joined by then.
        look_busy: between two lists of a region where something ends, or is unsure.
        look_calm: between two lists of a region where machines run.
        look_idle: between two lists of a region where none should be.
        absent: a machine that was asked for, and never listed, is gone when it was missing for so long.
        vanished: the same for one that was listed before and has been released.
        stranger: one that no row knows is ended when it was on the list for so long.
    """

    call: float = 120.0
    first_pause: float = 2.0
    longest_pause: float = 300.0
    give_up: float = 300.0
    join: float = 900.0
    look_busy: float = 5.0
    look_calm: float = 20.0
    look_idle: float = 300.0
    absent: float = 600.0
    vanished: float = 30.0
    stranger: float = 900.0

    @classmethod
    def scaled(cls, scale: float) -> MachineTerms:
        """All times but that of a call, multiplied by `scale`."""
        usual = cls()
        return replace(
            usual, **{field.name: getattr(usual, field.name) * scale for field in fields(cls) if field.name != "call"}
        )
