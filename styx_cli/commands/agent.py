"""`styx agent`: the machines. See them, take them out of service, let new ones join."""

from __future__ import annotations

import shlex
from datetime import timedelta

import click

from styx_cli import clock
from styx_cli.main import StyxGroup
from styx_cli.render import lines_of_list, lines_of_one, put_all
from styx_cli.settings import Settings, say
from styx_cli.words import Duration, Pair, mapping

EXAMPLES = """\
styx agent list
styx agent drain a3         it takes no new work; what runs there goes on
styx agent drain a3 --undo
styx agent join             prints the command that starts an agent on another machine"""


JOIN_EXAMPLES = """\
styx agent join
styx agent join --uses 10 --ttl 24h --pool gpu --label rack=7
styx agent join --token-only"""


@click.group("agent", cls=StyxGroup, examples=EXAMPLES)
def command() -> None:
    """See machines, take them out of service, let new ones join."""


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


@command.command("drain", examples="styx agent drain a3\nstyx agent drain a3 --undo")
@click.argument("agent_id", metavar="ID")
@click.option("--undo", is_flag=True, help="Put it back into service.")
@click.pass_obj
def drain(settings: Settings, *, agent_id: str, undo: bool) -> None:
    """Take an agent out of service; what runs there goes on."""
    from styx_cli.views import agent_columns

    with settings.client() as client:
        agent = client.drain_agent(agent_id, undo=undo)
    put_all(lines_of_list(settings, [agent], agent_columns(clock.now()), name=lambda each: each.id))


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
