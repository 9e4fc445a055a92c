"""`styx agent`: the machines. See them, take them out of service, remove them, let new ones join."""

from __future__ import annotations

import shlex
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from styx_cli import clock
from styx_cli.main import StyxGroup
from styx_cli.render import lines_of_list, lines_of_one, put_all
from styx_cli.settings import Settings, say
from styx_cli.words import Duration, Pair, mapping

if TYPE_CHECKING:
    from styx.models import Agent

EXAMPLES = """\
styx agent list
styx agent drain a3         it takes no new work; what runs there goes on
styx agent drain a3 --deadline 10m --wait    what still runs then is stopped, and runs elsewhere
styx agent drain a3 --undo
styx agent remove a3
styx agent join             prints the command that starts an agent on another machine"""


DRAIN_EXAMPLES = """\
styx agent drain a3                          it takes no new work; what runs there goes on
styx agent drain a3 --wait                   until nothing runs there any more
styx agent drain a3 --deadline 10m --wait    what still runs after ten minutes is stopped, and runs elsewhere
styx agent drain a3 --undo                   back into service"""


REMOVE_EXAMPLES = """\
styx agent drain a3 --wait && styx agent remove a3
styx agent remove a3 --force    though it holds attempts: they are lost once their leases have run out
styx agent remove a3 --lost     its machine is gone for good: they are lost now"""


JOIN_EXAMPLES = """\
styx agent join
styx agent join --uses 10 --ttl 24h --pool gpu --label rack=7
styx agent join --token-only"""


@click.group("agent", cls=StyxGroup, examples=EXAMPLES)
def command() -> None:
    """See machines, take them out of service, remove them, let new ones join."""


@command.command("list", examples="styx agent list\nstyx agent list -o wide")
@click.pass_obj
def list_(settings: Settings) -> None:
    """List agents."""
    from styx_cli.views import agent_columns

    with settings.client() as client:
        put_all(lines_of_list(settings, client.agents(), agent_columns(clock.now()), name=lambda agent: agent.id))


@command.command("show", examples="styx agent show a3")
@click.argument("agent_id", metavar="ID")
@click.pass_obj
def show(settings: Settings, *, agent_id: str) -> None:
    """One agent in full."""
    from styx_cli.views import agent_lines

    with settings.client() as client:
        agent = client.agent(agent_id)
    put_all(lines_of_one(settings, agent, name=agent.id, people=lambda: agent_lines(agent, clock.now())))


@command.command("drain", examples=DRAIN_EXAMPLES)
@click.argument("agent_id", metavar="ID")
@click.option("--deadline", type=Duration(), metavar="TIME", help="From then on, stop what still runs there.")
@click.option("--wait", is_flag=True, help="Wait until nothing runs there any more.")
@click.option("--undo", is_flag=True, help="Put it back into service.")
@click.pass_obj
def drain(settings: Settings, *, agent_id: str, deadline: timedelta | None, wait: bool, undo: bool) -> None:
    """Take an agent out of service; what runs there goes on.

    With --deadline, what still runs there at that time is stopped, each with its own grace, and its task runs
    elsewhere: a preemption, which uses up no retry. A task that was submitted with --at-most-once is not run again; it
    ends as LOST.
    """
    from styx_cli.views import agent_columns

    if undo and (wait or deadline is not None):
        raise click.UsageError("--undo goes with neither --deadline nor --wait")
    with settings.client() as client:
        agent = client.drain_agent(agent_id, deadline=deadline, undo=undo)
        if wait:
            for agent in client.watch_agent_empty(agent_id):
                if agent.attempt_count:
                    say(settings, _waits_for(agent))
    put_all(lines_of_list(settings, [agent], agent_columns(clock.now()), name=lambda each: each.id))


@command.command("remove", examples=REMOVE_EXAMPLES)
@click.argument("agent_id", metavar="ID")
@click.option("--force", is_flag=True, help="Though it holds attempts: they are lost once their leases have run out.")
@click.option("--lost", is_flag=True, help="Its machine is gone for good: its attempts are lost now. See above.")
@click.pass_obj
def remove(settings: Settings, *, agent_id: str, force: bool, lost: bool) -> None:
    """Remove an agent for good: its token is no longer good, and within 5 s it is told to stop everything.

    An agent that holds attempts is refused: drain it first. With --force it is removed all the same, and its tasks wait
    until their leases have run out on both sides, by default about 16 minutes, before they run elsewhere.

    With --lost you vouch that its machine is gone for good and comes back never: its tasks run elsewhere at once. Styx
    cannot check that. If the machine is only cut off, its tasks run twice at the same time until it is reached again.
    """
    with settings.client() as client:
        held = client.remove_agent(agent_id, force=force, lost=lost)
    say(settings, f"{agent_id} is removed")
    if held and not lost:
        say(settings, f"it still held {_attempts(held)}; once their leases have run out, their tasks run elsewhere")


@command.command(
    "join",
    examples=JOIN_EXAMPLES,
)
@click.option(
    "--uses", type=click.IntRange(1, 10_000), default=1, metavar="N", help="How many agents may join with it."
)
@click.option("--ttl", type=Duration(), metavar="TIME", help="Until when. Default: 15m.")
@click.option("--pool", default="", metavar="NAME", help="The pool that they will serve.")
@click.option("--label", "-l", "labels", multiple=True, type=Pair(), metavar="K=V", help="A label they will carry.")
@click.option("--token-only", is_flag=True, help="Print the token alone, for a script; the same as -o name.")
@click.pass_obj
def join(
    settings: Settings,
    *,
    uses: int,
    ttl: timedelta | None,
    pool: str,
    labels: tuple[tuple[str, str], ...],
    token_only: bool,
) -> None:
    """Print the command that starts an agent on another machine and lets it join."""
    from styx.locate import locate
    from styx_cli.phrases import rfc3339

    url = locate(settings.server, settings.token, data_dir=settings.data_dir).addresses[0].url
    with settings.client() as client:
        made = client.create_join_token(max_uses=uses, ttl=ttl, pool=pool, labels=mapping(labels))
    if token_only:
        settings.output = "name"
    line = shlex.join(["styx-agent", "--server-url", url, "--join-token", made.token])
    put_all(lines_of_one(settings, made, name=made.token, people=lambda: [line]))
    if settings.is_for_people and made.expire_time is not None:
        agents = "one agent" if uses == 1 else f"{uses} agents"
        say(settings, f"good for {agents} until {rfc3339(made.expire_time)}")


def _waits_for(agent: Agent) -> str:
    shown = ", ".join(agent.task_ids[:5]) + (", ..." if agent.attempt_count > 5 else "")
    state = "" if agent.state.value == "DRAINING" else f"; the agent is {agent.state.value}"
    return f"waits for {_attempts(agent.attempt_count)} on {agent.id}: {shown}{state}"


def _attempts(count: int) -> str:
    return "1 attempt" if count == 1 else f"{count} attempts"
