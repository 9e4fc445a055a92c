"""A machine of a cloud, as far as one computer can play it: a root file system with the real cloud-init, a network of
its own with the cloud's metadata service on it, and a cable to this computer.

Not there: a kernel and an init of its own. Stages of cloud-init are run by hand in their order, and a stand-in notes
what is asked of systemd, and starts the agent. Needs root, iproute2, and STYX_TEST_ROOTFS: a folder made by

    mmdebstrap --variant=apt \
        --include=cloud-init,python3,systemd,systemd-sysv,dbus,iproute2,ca-certificates,procps,netbase bookworm FOLDER
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import metadata_program
from tests.support.machine import SYSTEMCTL

# By these cloud-init knows the cloud, and for EC2 asks for a session token first.
_EC2_NUMBER = "ec2f0000-0000-0000-0000-000000000001"
# Whatever is not about Styx and would fail, or take long, in a chroot.
_SEED = """
datasource_list: [{source}]
locale: false
ssh_deletekeys: false
ssh_genkeytypes: []
resize_rootfs: false
growpart: {{mode: "off"}}
manage_etc_hosts: false
preserve_hostname: true
network: {{config: disabled}}
"""
_INSIDE = r"""
set -e
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$ROOTFS,upperdir=$WORK/upper,workdir=$WORK/work" "$WORK/root"
cd "$WORK/root"
mount -t proc proc proc
mount -t tmpfs tmpfs run
mkdir -p run/systemd/system
mkdir -p "$WORK/sys/class/net" "$WORK/sys/devices"
mount --bind "$WORK/sys" sys
mount --bind /sys/class/net sys/class/net
mount --bind /sys/devices sys/devices
for node in null zero full random urandom tty; do touch "dev/$node"; mount --bind "/dev/$node" "dev/$node"; done
mkdir -p dev/shm && mount -t tmpfs tmpfs dev/shm
for stage in 'init --local' init 'modules --mode=config' 'modules --mode=final'; do
  chroot . cloud-init $stage || echo "cloud-init $stage: $?"
done
echo booted
exec sleep infinity
"""


def why_not() -> str:
    """Why there can be no such machine here; empty: there can."""
    rootfs = os.environ.get("STYX_TEST_ROOTFS", "")
    if not Path(rootfs, "usr/bin/cloud-init").exists() or not rootfs:
        return "STYX_TEST_ROOTFS names no root file system with cloud-init in it"
    if os.geteuid() != 0:
        return "only root may make namespaces and mounts"
    missing = [program for program in ("ip", "unshare", "chroot", "mount") if shutil.which(program) is None]
    return f"{', '.join(missing)} missing" if missing else ""


def python_of_rootfs() -> str:
    """The version of Python in it: `3.11`."""
    (found,) = Path(os.environ["STYX_TEST_ROOTFS"], "usr/bin").glob("python3.?*[0-9]")
    return found.name.removeprefix("python")


class CloudMachine:
    """One, with a cable whose other end is `host`, an address of this computer."""

    def __init__(self, work: Path, cloud: str) -> None:
        self.work = work
        self.console = work / "console"
        self.upper = work / "upper"
        self._cloud = cloud
        self._name = f"styx{os.getpid()}"
        net = f"10.213.{os.getpid() % 250}"
        self.host, self._address = f"{net}.1", f"{net}.2"
        self._processes: list[subprocess.Popen[bytes]] = []

    def lay_cable(self) -> None:
        """Makes the machine's network."""
        # By its name cloud-init takes it for a cable, not for a card that it should wait for an address on.
        name = self._name
        _ip("netns", "add", name)
        _ip("link", "add", f"{name}h", "type", "veth", "peer", "name", "veth0", "netns", name)
        _ip("addr", "add", f"{self.host}/30", "dev", f"{name}h")
        _ip("link", "set", f"{name}h", "up")
        _ip("-n", name, "addr", "add", f"{self._address}/30", "dev", "veth0")
        _ip("-n", name, "addr", "add", f"{metadata_program.PLACE[0]}/32", "dev", "lo")
        for device in ("lo", "veth0"):
            _ip("-n", name, "link", "set", device, "up")

    def start(self, user_data: str) -> None:
        """Switches it on."""
        for folder in ("upper/etc/cloud/cloud.cfg.d", "upper/usr/bin", "work", "root", "sys/class/dmi/id"):
            (self.work / folder).mkdir(parents=True, exist_ok=True)
        source = {"ec2": "Ec2", "gce": "GCE"}[self._cloud]
        (self.upper / "etc/cloud/cloud.cfg.d/99_test.cfg").write_text(_SEED.format(source=source))
        (self.upper / "etc/hosts").write_text("127.0.0.1 localhost\n169.254.169.254 metadata.google.internal\n")
        # Everything that could end a machine is another name of systemctl. And what looks like a container to systemd
        # is not asked by cloud-init for the cloud that made it.
        for name, text in (("systemctl", SYSTEMCTL), ("systemd-detect-virt", "#!/bin/sh\necho none\nexit 1\n")):
            (self.upper / "usr/bin" / name).write_text(text)
            (self.upper / "usr/bin" / name).chmod(0o755)
        identity = {
            "ec2": {"product_uuid": _EC2_NUMBER, "product_serial": _EC2_NUMBER, "sys_vendor": "Amazon EC2"},
            "gce": {"product_name": "Google Compute Engine", "product_serial": "GoogleCloud-1"},
        }
        for name, text in identity[self._cloud].items():
            (self.work / "sys/class/dmi/id" / name).write_text(f"{text}\n")
        (self.work / "user-data").write_text(user_data)
        self._run(sys.executable, metadata_program.__file__, self._cloud, str(self.work / "user-data"))
        unshare = ("unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child")
        self._run(*unshare, "sh", "-c", _INSIDE)

    def _run(self, *words: str) -> None:
        with self.console.open("ab") as console:
            started = subprocess.Popen(
                ["ip", "netns", "exec", self._name, *words],
                env={"PATH": os.environ["PATH"], "ROOTFS": os.environ["STYX_TEST_ROOTFS"], "WORK": str(self.work)},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        self._processes.append(started)

    @property
    def calls(self) -> list[str]:
        """What was asked of systemd, and of the power switch."""
        path = self.upper / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def says(self, text: str) -> bool:
        """Whether this is on its console by now."""
        return text in self.console.read_text(errors="replace")

    def read(self, name: str) -> str:
        """A file that was written on it."""
        return (self.upper / name).read_text()

    def pull_plug(self) -> None:
        """Ends whatever runs on it."""
        for process in self._processes:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Pulls the plug, and takes the cable away."""
        self.pull_plug()
        subprocess.run(["ip", "netns", "del", self._name], check=False, capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextmanager
def cloud_machine(folder: Path, cloud: str) -> Iterator[CloudMachine]:
    """A machine that is not switched on yet, of `ec2` or `gce`."""
    machine = CloudMachine(folder, cloud)
    try:
        machine.lay_cable()
        yield machine
    finally:
        machine.close()
