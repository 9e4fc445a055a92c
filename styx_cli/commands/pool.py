"""`styx pool`: named sets of agents, and how machines are rented for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from styx_cli import clock
from styx_cli.main import StyxGroup
from styx_cli.render import lines_of_list, lines_of_one, put_all
from styx_cli.settings import Settings, say
from styx_cli.words import Duration, Pair, Size, mapping

F = TypeVar("F", bound=Callable[..., Any])

EXAMPLES = """\
styx pool list
styx pool create gpu --max 4 --infra aws/us-east-1 --spot spot-with-fallback --max-hourly-cost 20
styx pool update gpu --max 8 --idle 10m
styx pool delete gpu"""

CREATE_EXAMPLES = """\
styx pool create gpu --max 4 --infra aws/us-east-1 --infra gcp
styx pool create cheap --max 50 --spot spot --machine-type m6i.large --machine-type m7i.large --max-hourly-cost 5
styx pool create warm --min 2 --max 2 --idle 1h      two machines are kept, also without work
styx pool create rack --max 0                        nothing is rented: for machines that join by themselves
styx submit --pool gpu --gpus A100:1 -- python train.py"""

UPDATE_EXAMPLES = """\
styx pool update gpu --max 8
styx pool update gpu --min 0 --max 0      machines are given back as they become idle
styx pool update gpu --reset max-hourly-cost --reset labels"""

SPOT = ("on-demand", "spot", "spot-with-fallback", "any")

_OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("--min", "min_machines"),
        {"type": click.IntRange(0), "metavar": "N", "help": "Keep as many, also without work."},
    ),
    (("--max", "max_machines"), {"type": click.IntRange(0), "metavar": "N", "help": "Never more. 0: rent none."}),
    (("--idle", "idle_timeout"), {"type": Duration(), "metavar": "TIME", "help": "Give back what is idle so long."}),
    (("--spot",), {"type": click.Choice(SPOT), "help": "For tasks that do not say."}),
    (("--infra",), {"multiple": True, "metavar": "PLACE", "help": "Where, as aws/us-east-1 or gcp/*/us-central1-a."}),
    (("--machine-type", "machine_types"), {"multiple": True, "metavar": "TYPE", "help": "Only these types."}),
    (
        ("--max-hourly-cost",),
        {"type": click.FloatRange(0), "metavar": "USD", "help": "Of all its machines together."},
    ),
    (("--image",), {"metavar": "IMAGE", "help": "What to boot, in the provider's words."}),
    (("--label", "-l", "labels"), {"multiple": True, "type": Pair(), "metavar": "K=V", "help": "On its agents."}),
    (("--disk", "disk_bytes"), {"type": Size(), "metavar": "SIZE", "help": "Disk of each machine."}),
    (("--max-life", "max_life"), {"type": Duration(), "metavar": "TIME", "help": "No machine lives longer."}),
)
FIELDS = tuple(names[-1].lstrip("-").replace("-", "_") for names, _ in _OPTIONS)


def pool_options(function: F) -> F:
    """Adds what can be said about a pool to a command."""
    for names, attributes in reversed(_OPTIONS):
        function = click.option(*names, **attributes)(function)
    return function


@click.group("pool", cls=StyxGroup, examples=EXAMPLES)
def command() -> None:
    """See, make, change and delete pools."""


@command.command("list", examples="styx pool list\nstyx pool list -o wide")
@click.pass_obj
def list_(settings: Settings) -> None:
    """List pools."""
    from styx_cli.machine_views import pool_columns

    with settings.client() as client:
        put_all(lines_of_list(settings, client.pools(), pool_columns(), name=lambda pool: pool.name))


@command.command("show", examples="styx pool show gpu")
@click.argument("name", metavar="NAME")
@click.pass_obj
def show(settings: Settings, *, name: str) -> None:
    """One pool in full."""
    with settings.client() as client:
        _put(settings, client.pool(name))


@command.command("create", examples=CREATE_EXAMPLES)
@click.argument("name", metavar="NAME")
@pool_options
@click.pass_obj
def create(settings: Settings, /, *, name: str, **options: Any) -> None:
    """Make a pool.

    What is not said is as usual: at most 10 machines, on demand, anywhere, given back after 5 minutes without work.
    """
    from styx.machine_models import PoolSpec

    with settings.client() as client:
        _put(settings, client.create_pool(name, PoolSpec(**_given(options))))


@command.command("update", examples=UPDATE_EXAMPLES)
@click.argument("name", metavar="NAME")
@pool_options
@click.option("--reset", multiple=True, metavar="FIELD", help="Make a field as usual again, such as max-hourly-cost.")
@click.option("--generation", type=click.IntRange(1), metavar="N", help="Only if nobody has changed it since.")
@click.pass_obj
def update(settings: Settings, /, *, name: str, reset: tuple[str, ...], generation: int | None, **options: Any) -> None:
    """Change some fields of a pool. Lists and labels are replaced as a whole."""
    changes: dict[str, Any] = {_field(word): None for word in reset}
    twice = sorted(set(changes) & set(_given(options)))
    if twice:
        raise click.UsageError(f"{twice[0].replace('_', '-')} is set and reset; say one of the two")
    changes |= _given(options)
    if not changes:
        raise click.UsageError("nothing is to change; say what, as in `styx pool update gpu --max 8`")
    with settings.client() as client:
        _put(settings, client.update_pool(name, generation=generation or 0, **changes))


@command.command("delete", examples="styx pool delete gpu")
@click.argument("name", metavar="NAME")
@click.pass_obj
def delete(settings: Settings, *, name: str) -> None:
    """Delete a pool that has neither machines nor tasks."""
    with settings.client() as client:
        client.delete_pool(name)
    say(settings, f"pool {name} is deleted")


def _given(options: dict[str, Any]) -> dict[str, Any]:
    from styx.models import SpotUse

    given = {field: value for field, value in options.items() if value is not None and value != ()}
    if "labels" in given:
        given["labels"] = mapping(given["labels"])
    if "spot" in given:
        given["spot"] = SpotUse[given["spot"].upper().replace("-", "_")]
    return given


def _field(word: str) -> str:
    name = {"min": "min_machines", "max": "max_machines", "idle": "idle_timeout", "disk": "disk_bytes"}.get(word)
    name = name or {"machine-type": "machine_types", "label": "labels"}.get(word, word.replace("-", "_"))
    if name not in FIELDS:
        raise click.UsageError(f"a pool has no field {word!r}; there are {', '.join(FIELDS).replace('_', '-')}")
    return name


def _put(settings: Settings, pool: Any) -> None:
    from styx_cli.machine_views import pool_lines

    put_all(lines_of_one(settings, pool, name=pool.name, people=lambda: pool_lines(pool, clock.now())))
