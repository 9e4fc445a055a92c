"""`styx logs`: the output of a task, byte for byte."""

from __future__ import annotations

import click

from styx_cli.main import StyxCommand
from styx_cli.settings import Settings

EXAMPLES = """\
styx logs t42               all of it; stdout to stdout, stderr to stderr
styx logs -f t42            and go on until the task has ended
styx logs t42 --tail 20
styx logs t42 --stderr      only its stderr, on stdout
styx logs t42 --raw >out    exactly the bytes that the command wrote"""


@click.command("logs", cls=StyxCommand, examples=EXAMPLES)
@click.argument("task_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on until the task has ended and its log is complete.")
@click.option("-n", "--tail", type=click.IntRange(min=1), metavar="N", help="Start with the last N lines.")
@click.option("--stdout", "only_stdout", is_flag=True, help="Only what the task wrote to its stdout.")
@click.option("--stderr", "only_stderr", is_flag=True, help="Only what went to its stderr; it is printed to stdout.")
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="Of this attempt. Default: the latest.")
@click.option("-t", "--timestamps", is_flag=True, help="Begin each line with the time it was written.")
@click.option("--raw", is_flag=True, help="Bytes as they are, also on a terminal.")
@click.pass_obj
def command(  # noqa: PLR0913 - one parameter for each option
    settings: Settings,
    *,
    task_id: str,
    follow: bool,
    tail: int | None,
    only_stdout: bool,
    only_stderr: bool,
    attempt: int | None,
    timestamps: bool,
    raw: bool,
) -> None:
    """Print the output of a task.

    On a terminal control sequences other than colours are taken out, because they could do more than print; --raw
    leaves them in. In a pipe or a file the bytes are always those that the command wrote.
    """
    from contextlib import closing

    from styx_cli.output import LogWriter

    stream = "stdout" if only_stdout and not only_stderr else "stderr" if only_stderr and not only_stdout else None
    writer = LogWriter(settings, raw=raw, timestamps=timestamps, only=stream)
    with settings.client() as client, closing(writer):
        chunks = client.logs(
            task_id, follow=follow, attempt=attempt or 0, stream=stream, tail=tail or 0, timestamps=timestamps
        )
        for chunk in chunks:
            writer.write(chunk)
