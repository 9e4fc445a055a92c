"""What a new machine is told: a boot script in plain shell, and the same as user-data for cloud-init.

The script first sees to it that the machine ends itself when nobody needs it, and only then fetches the agent. It runs
under cloud-init, as a startup script, and as the command of a container. The same values give the same bytes. Next:
`boot_script.py`, its words.
"""

from __future__ import annotations

import shlex
from typing import Final
from urllib.parse import urlsplit

from styx_server.core.errors import InvalidRequest, Violation
from styx_server.core.machines.boot_script import AGENT, DEAD_MAN, HEAD
from styx_server.core.machines.instance import Boot
from styx_server.core.machines.offer import MachineSize

MAX_USER_DATA_BYTES: Final = 16_384
"""What AWS takes, before base64; the others take more."""

_HEX: Final = frozenset("0123456789abcdef")


def boot_script(boot: Boot, size: MachineSize, *, life_seconds: int = 0) -> str:
    """The script, for startup scripts and containers. Where systemd runs it returns; elsewhere it stays.

    Args:
        boot: how the agent starts.
        size: what the offer promises; the agent offers that, not what the kernel leaves of it. Of 0 bytes of memory
            nothing is said.
        life_seconds: after that the machine ends itself; 0: never.

    Raises:
        InvalidRequest: a value cannot be written into a script.
    """
    _check(boot, size)
    return f"{HEAD}{_told(boot, size, life_seconds)}{DEAD_MAN}{_token(boot)}{AGENT}"


def user_data(boot: Boot, size: MachineSize, *, life_seconds: int = 0) -> str:
    """The same for cloud-init. The dead-man comes with the first stage of a boot, the agent with the last.

    Args:
        boot: how the agent starts.
        size: as in `boot_script`.
        life_seconds: after that the machine ends itself; 0: never.

    Raises:
        InvalidRequest: a value cannot be written into a script, or the whole is larger than a cloud takes.
    """
    _check(boot, size)
    first = f"{HEAD}{_told(boot, size, life_seconds)}{DEAD_MAN}"
    last = f"{HEAD}{_token(boot)}{AGENT}"
    text = f"#cloud-config\nbootcmd:\n{_command(first)}runcmd:\n{_command(last)}"
    length = len(text.encode())
    if length > MAX_USER_DATA_BYTES:
        raise _invalid(
            "boot",
            f"user-data is {length} bytes, and clouds take {MAX_USER_DATA_BYTES}; name fewer servers, or shorter ones",
        )
    return text


def _told(boot: Boot, size: MachineSize, life_seconds: int) -> str:
    """The file with everything that is of this machine alone, the token excepted."""
    flags = [
        f"--server-url={','.join(boot.server_urls)}",
        f"--name={boot.agent_name}",
        f"--cpus={size.cpus_milli / 1000}",
    ]
    if size.memory_bytes:
        flags.append(f"--memory={size.memory_bytes}")
    if size.gpu_count:
        flags.append(f"--gpus={size.gpu_name}:{size.gpu_count}")
    if boot.preemption_notice:
        flags.append(f"--preemption-notice={boot.preemption_notice}")
    return (
        "cat >\"$root/etc/styx/machine.conf\" <<'STYX_END'\n"
        f"server_urls={shlex.quote(','.join(_http(boot)))}\n"
        f"bundle={shlex.quote(boot.bundle_sha256)}\n"
        f"join_seconds={boot.join_seconds:d} silent_seconds={boot.silent_seconds:d} life_seconds={life_seconds:d}\n"
        f'styx_agent() {{ exec "$@" {shlex.join(flags)}; }}\n'
        "STYX_END\n"
    )


def _token(boot: Boot) -> str:
    # Not again at a later boot of the same machine.
    return (
        '[ -e "$root/var/lib/styx-agent/lease.json" ] ||\n'
        f"  printf '%s\\n' {shlex.quote(boot.join_token)} >\"$root/etc/styx/join.token\"\n"
    )


def _command(script: str) -> str:
    """One command of cloud-init, as YAML."""
    # A literal block, because people read user-data too. Every character of it is printable, so nothing needs escaping.
    lines = "".join(f"    {line}\n" if line else "\n" for line in script.splitlines())
    return f"- - sh\n  - -c\n  - |\n{lines}"


def _http(boot: Boot) -> tuple[str, ...]:
    return tuple(url for url in boot.server_urls if urlsplit(url).scheme in {"http", "https"})


def _check(boot: Boot, size: MachineSize) -> None:
    for name, text in (
        *(("server_urls", url) for url in boot.server_urls),
        ("join_token", boot.join_token),
        ("agent_name", boot.agent_name),
        ("gpu_name", size.gpu_name or "none"),
        ("preemption_notice", boot.preemption_notice or "none"),
    ):
        if not text or not text.isprintable():
            raise _invalid(name, f"must be a text of one line without control characters, not {text!r}")
    for url in boot.server_urls:
        if "," in url or " " in url:
            raise _invalid("server_urls", f"an address has neither commas nor spaces: {url!r}")
    if boot.bundle_sha256 and (len(boot.bundle_sha256) != 64 or set(boot.bundle_sha256) - _HEX):
        raise _invalid("bundle_sha256", f"must be 64 digits of lower-case hexadecimal, not {boot.bundle_sha256!r}")
    if not boot.server_urls or (boot.bundle_sha256 and not _http(boot)):
        raise _invalid("server_urls", "must have one http:// or https:// address; the machine fetches its agent there")


def _invalid(name: str, description: str) -> InvalidRequest:
    return InvalidRequest([Violation(field=name, description=description)])
