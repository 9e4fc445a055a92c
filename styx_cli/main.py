"""The tree of commands, and nothing else: which words there are, and the module of each.

A module is imported when its word is used, so that `styx version` does not pay for `styx up`. `settings.py` has the
options that all commands share, `exits.py` what happens when one fails.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from styx_cli.exits import after_broken_pipe
from styx_cli.settings import Settings, global_options

#: Each word, its module, and its line in the list of commands.
COMMANDS = {
    "run": ("run", "Run a command, follow its output, exit with its code."),
    "submit": ("submit", "Submit a command and print the id of its task."),
    "status": ("status", "The state of everything, or of one task in full."),
    "list": ("list", "List tasks."),
    "logs": ("logs", "Print the output of a task."),
    "wait": ("wait", "Wait until tasks have ended."),
    "cancel": ("cancel", "Stop tasks."),
    "retry": ("retry", "Give a task one more attempt."),
    "agent": ("agent", "See machines, take them out of service, let new ones join."),
    "pool": ("pool", "See, make, change and delete pools."),
    "instance": ("instance", "See rented machines, give them back."),
    "offers": ("offers", "List what there is to rent, cheapest first."),
    "gpus": ("gpus", "List models of accelerators that there are to rent."),
    "plan": ("plan", "Say what would be rented for a command; rent nothing."),
    "check": ("check", "Ask providers whether they can be used."),
    "cost": ("cost", "Say what was spent, and what is being spent now."),
    "budget": ("budget", "See, set and take away limits on money."),
    "catalog": ("catalog", "Renew what the server knows of types and prices."),
    "freeze": ("freeze", "Stop all renting."),
    "unfreeze": ("unfreeze", "Let renting go on."),
    "up": ("up", "Start a whole Styx on this machine."),
    "down": ("down", "Stop it."),
    "version": ("version", "Print versions."),
    "completion": ("completion", "Print the completion script of a shell."),
}

EXAMPLES = """\
styx up --detach                  start a server and an agent on this machine
styx run -- echo "Hello Styx!"    run a command there
styx submit --cpus 4 -- make -j4  leave it running; prints the id of the task
styx logs -f t2                   follow its output
styx status                       see what is going on"""


class StyxCommand(click.Command):
    """A command that takes the global options and shows examples first."""

    def __init__(self, *args: Any, examples: str = "", **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.examples = examples
        self.params.extend(global_options())

    def invoke(self, ctx: click.Context) -> Any:
        """Runs it. click would turn a broken pipe into a code that could be a task's."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise click.exceptions.Exit(after_broken_pipe()) from None

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Usage, examples, description, options, global options."""
        format_help(self, self.examples, ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options first."""
        format_options(self, ctx, formatter)


class StyxGroup(click.Group):
    """A group whose commands take the global options too."""

    command_class = StyxCommand

    def __init__(self, *args: Any, examples: str = "", **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.examples = examples
        self.params.extend(global_options())

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Usage, examples, description, commands, options."""
        format_help(self, self.examples, ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Commands before options."""
        self.format_commands(ctx, formatter)
        format_options(self, ctx, formatter)


class LazyGroup(StyxGroup):
    """The root: knows its commands by name, loads one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All words, in the order of a working day."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the module of the word."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"styx_cli.commands.{COMMANDS[cmd_name][0]}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Remembers the word, because some words have exit codes of their own; knows near misses."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.exceptions.NoSuchCommand(args[0], possibilities=COMMANDS, ctx=ctx)
        ctx.ensure_object(Settings).verb = args[0]
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing any."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def format_help(command: click.Command, examples: str, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """Usage, examples, description, options: what most readers came for goes first."""
    command.format_usage(ctx, formatter)
    if examples:
        with formatter.section("Examples"):
            for line in examples.splitlines():
                formatter.write(" " * formatter.current_indent + line + "\n")
    command.format_help_text(ctx, formatter)
    command.format_options(ctx, formatter)
    command.format_epilog(ctx, formatter)


def format_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """The command's own options, then those that all commands share."""
    shared = {parameter.name for parameter in global_options()}
    records = [(each.name in shared, each.get_help_record(ctx)) for each in command.get_params(ctx)]
    for is_shared, title in ((False, "Options"), (True, "Options of every command")):
        rows = [record for belongs, record in records if record is not None and belongs is is_shared]
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)


@click.command(
    cls=LazyGroup,
    name="styx",
    examples=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
def cli() -> None:
    """Styx runs commands on machines."""
