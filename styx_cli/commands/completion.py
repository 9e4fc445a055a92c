"""`styx completion`: the script that makes a shell complete our words."""

from __future__ import annotations

import click

from styx_cli.main import StyxCommand, cli
from styx_cli.render import put

EXAMPLES = """\
eval "$(styx completion bash)"                                      in ~/.bashrc
eval "$(styx completion zsh)"                                       in ~/.zshrc
styx completion fish > ~/.config/fish/completions/styx.fish"""


@click.command("completion", cls=StyxCommand, examples=EXAMPLES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(*, shell: str) -> None:
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise click.ClickException(f"no completion for {shell}")
    put(found(cli, {}, "styx", "_STYX_COMPLETE").source())
