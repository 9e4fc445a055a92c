"""`styx offers`: what there is to rent, cheapest first."""

from __future__ import annotations

from itertools import islice

import click

from styx_cli.main import StyxCommand
from styx_cli.render import lines_of_list, put_all
from styx_cli.settings import Settings
from styx_cli.words import Gpus, Size

EXAMPLES = """\
styx offers --gpus A100:8 --spot
styx offers --cpus 16 --memory 64GiB --infra aws/us-east-1
styx offers --gpus L4 --infra gcp -n 5 -o json"""


@click.command("offers", cls=StyxCommand, examples=EXAMPLES)
@click.option("--gpus", type=Gpus(), metavar="NAME:N", help="At least these accelerators.")
@click.option("--cpus", type=click.FloatRange(0), metavar="N", help="At least so many cores.")
@click.option("--memory", type=Size(), metavar="SIZE", help="At least so much main memory.")
@click.option("--spot/--on-demand", "spot", default=None, help="Only so. Default: both.")
@click.option("--infra", multiple=True, metavar="PLACE", help="Only there, like aws/us-east-1.")
@click.option("-n", "--limit", type=click.IntRange(1), default=20, metavar="N", help="At most so many. Default: 20.")
@click.pass_obj
def command(settings: Settings, /, *, spot: bool | None, limit: int, infra: tuple[str, ...], **needs: object) -> None:
    """List what there is to rent, cheapest first. A ~ behind a price says that it is an estimate."""
    from styx.models import SpotUse
    from styx_cli.machine_views import offer_columns

    given = {name: value for name, value in needs.items() if value is not None}
    use = {None: SpotUse.UNKNOWN, True: SpotUse.SPOT, False: SpotUse.ON_DEMAND}[spot]
    with settings.client() as client:
        found = client.offers(spot=use, infra=infra, **given)  # type: ignore[arg-type]
        shown = islice(found, limit)
        put_all(lines_of_list(settings, shown, offer_columns(), name=lambda offer: offer.machine_type))
        found.close()
