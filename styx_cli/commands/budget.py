"""`styx budget`: limits on money."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from styx_cli.main import StyxGroup
from styx_cli.render import lines_of_list, put_all
from styx_cli.settings import Settings, say

if TYPE_CHECKING:
    from styx.machine_models import BudgetPeriod, BudgetScope

EXAMPLES = """\
styx budget set 500                       for all machines, each month
styx budget set 20 --pool gpu --period day
styx budget list
styx budget delete --pool gpu --period day"""

PERIODS = ("day", "month", "total")


@click.group("budget", cls=StyxGroup, examples=EXAMPLES)
def command() -> None:
    """See, set and take away limits on money."""


@command.command("set", examples="styx budget set 500\nstyx budget set 20 --pool gpu --period day --warn-at 0.5")
@click.argument("limit", metavar="USD", type=click.FloatRange(0))
@click.option("--pool", metavar="NAME", help="For machines of this pool.")
@click.option("--namespace", metavar="NAME", help="For tasks of this namespace; it is only warned of.")
@click.option("--period", type=click.Choice(PERIODS), default="month", help="How often it starts again.")
@click.option("--warn-at", "warn_share", type=click.FloatRange(0, 1), metavar="SHARE", help="Default: 0.8.")
@click.pass_obj
def set_(
    settings: Settings, *, limit: float, pool: str | None, namespace: str | None, period: str, warn_share: float | None
) -> None:
    """Set a limit, or change it.

    Nothing is rented for which what is left would not pay the next hour. What is rented goes on: it is given back when
    it is idle, or by `styx instance terminate`.
    """
    from styx_cli.machine_views import budget_columns, budget_name

    scope, name = _scope(pool, namespace)
    with settings.client() as client:
        budget = client.set_budget(limit, scope=scope, name=name, period=_period(period), warn_share=warn_share)
    put_all(lines_of_list(settings, [budget], budget_columns(), name=budget_name))


@command.command("list", examples="styx budget list")
@click.pass_obj
def list_(settings: Settings) -> None:
    """List limits, with what is spent of each."""
    from styx_cli.machine_views import budget_columns, budget_name

    with settings.client() as client:
        put_all(lines_of_list(settings, client.budgets(), budget_columns(), name=budget_name))


@command.command("delete", examples="styx budget delete --period month\nstyx budget delete --pool gpu --period day")
@click.option("--pool", metavar="NAME", help="That of this pool.")
@click.option("--namespace", metavar="NAME", help="That of this namespace.")
@click.option("--period", type=click.Choice(PERIODS), default="month", help="Which.")
@click.pass_obj
def delete(settings: Settings, *, pool: str | None, namespace: str | None, period: str) -> None:
    """Take a limit away."""
    scope, name = _scope(pool, namespace)
    with settings.client() as client:
        client.delete_budget(scope=scope, name=name, period=_period(period))
    say(settings, "the budget is deleted")


def _scope(pool: str | None, namespace: str | None) -> tuple[BudgetScope, str]:
    from styx.machine_models import BudgetScope

    if pool and namespace:
        raise click.UsageError("--pool goes not with --namespace")
    if pool:
        return BudgetScope.POOL, pool
    return (BudgetScope.NAMESPACE, namespace) if namespace else (BudgetScope.ALL, "")


def _period(word: str) -> BudgetPeriod:
    from styx.machine_models import BudgetPeriod

    return BudgetPeriod[word.upper()]
