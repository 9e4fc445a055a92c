"""A machine that nobody needs ends itself, whatever has become of the agent and of the servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from styx_server.core.machines.boot_script import DEAD_MAN
from styx_server.core.machines.instance import Boot
from styx_server.core.machines.offer import MachineSize
from styx_server.core.machines.user_data import boot_script
from tests.support.machine import Machine, new_machine

BOOT = Boot(
    server_urls=("http://127.0.0.1:1",),
    join_token="once",
    agent_name="i9",
    bundle_sha256="",
    join_seconds=900,
    silent_seconds=7200,
)
SIZE = MachineSize(cpus_milli=2000, memory_bytes=4 << 30)
SCRIPT = boot_script(BOOT, SIZE, life_seconds=86_400)


@pytest.fixture
def machine() -> Iterator[Machine]:
    """One with systemd, on which the dead-man has just been set."""
    with new_machine(systemd=True) as found:
        found.boot(SCRIPT.partition(DEAD_MAN)[0] + DEAD_MAN)
        yield found


def ends(machine: Machine) -> list[str]:
    return [call for call in machine.calls if call.startswith(("poweroff", "shutdown"))]


def test_the_timer_is_one_of_systemd_and_knows_no_agent(machine: Machine) -> None:
    assert machine.calls == [
        "systemctl daemon-reload",
        "systemctl enable styx-dead-man.timer",
        "systemctl start --no-block styx-dead-man.timer",
    ]
    units = machine.root / "etc/systemd/system"
    assert "ExecStart=/opt/styx/bin/dead-man poweroff" in (units / "styx-dead-man.service").read_text()
    assert "OnUnitActiveSec=15" in (units / "styx-dead-man.timer").read_text()


def test_a_machine_that_never_joins_is_powered_off(machine: Machine) -> None:
    machine.pass_time(800)
    assert machine.look() == ""
    machine.pass_time(101)
    assert machine.look() == "styx dead-man: this machine ends: no server has taken it within 900 s"
    assert ends(machine) == ["poweroff "]


def test_a_machine_that_will_not_go_is_told_more_firmly(machine: Machine) -> None:
    machine.pass_time(901)
    for _ in range(4):
        machine.look()
    assert ends(machine) == ["poweroff ", "poweroff -f", "poweroff -f -f", "poweroff -f -f"]


def test_however_long_the_computer_was_up_its_time_begins_with_the_script(machine: Machine) -> None:
    assert machine.look() == ""
    assert ends(machine) == []


def test_one_that_hears_of_a_server_stays(machine: Machine) -> None:
    for beat in range(1, 6):
        machine.touch("lease.json", beat)
        machine.pass_time(7000)
        assert machine.look() == ""
    assert ends(machine) == []


def test_one_that_is_silent_and_idle_is_powered_off(machine: Machine) -> None:
    machine.touch("lease.json", 1)
    machine.look()
    machine.pass_time(7100)
    assert machine.look() == ""
    machine.pass_time(101)
    assert "runs nothing and has heard of no server for 7200 s" in machine.look()
    assert ends(machine) == ["poweroff "]


def test_one_that_lost_its_servers_and_still_runs_something_stays(machine: Machine) -> None:
    machine.touch("lease.json", 1)
    for minute in range(1, 6):
        machine.touch("busy", minute)
        machine.pass_time(7000)
        assert machine.look() == ""
    machine.pass_time(7000)
    machine.look()
    machine.pass_time(7000)
    assert "runs nothing" in machine.look()


def test_no_work_keeps_it_beyond_its_time(machine: Machine) -> None:
    for beat in range(1, 13):
        machine.touch("lease.json", beat)
        machine.touch("busy", beat)
        assert machine.look() == ""
        machine.pass_time(7200)
    assert machine.look() == "styx dead-man: this machine ends: its time of 86400 s is over"


def test_a_start_of_the_machine_gives_it_time_to_find_a_server_but_no_longer_life(machine: Machine) -> None:
    machine.touch("lease.json", 1)
    machine.look()
    machine.pass_time(7100)
    machine.look()
    machine.reboot()
    machine.pass_time(0)
    assert machine.look() == ""
    machine.pass_time(7000)
    assert machine.look() == ""
    assert int((machine.data / "lived").read_text()) >= 14_100


def test_a_start_of_the_machine_before_it_joined_gives_no_more_time(machine: Machine) -> None:
    machine.pass_time(600)
    machine.look()
    machine.reboot()
    machine.look()
    machine.pass_time(301)
    assert "no server has taken it" in machine.look()


def test_the_join_token_goes_when_it_is_used(machine: Machine) -> None:
    token = machine.root / "etc/styx/join.token"
    token.write_text("once\n")
    machine.look()
    assert token.exists()
    machine.touch("lease.json", 1)
    machine.look()
    assert not token.exists()
