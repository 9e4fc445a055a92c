"""A kubelet that really starts what pods say: each container is a process of this computer, in a folder of its own.

What is mounted is a folder, and paths below it are rewritten to lie in there. Not modelled: images (the programs are
those of this environment), limits, users, readiness, restarts.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.providers.kube_double import Doc, KubeDouble


class LocalKubelet:
    """All nodes of a double. `turn` is to be called again and again."""

    def __init__(self, double: KubeDouble, folder: Path) -> None:
        self._double = double
        self.folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._asked_at: dict[str, float] = {}

    def turn(self) -> None:
        """Places pods, starts what is to run, stops what is to go, tells what has ended."""
        self._double.settle(finish=False)
        for pod in list(self._double.pods.values()):
            if pod["metadata"]["uid"] in self._processes:
                self._watch(pod)
            elif pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]:
                self._start(pod)

    def gone(self, name: str) -> bool:
        """A turn, and whether no such pod is left after it."""
        self.turn()
        return all(pod != name for _, pod in self._double.pods)

    def console(self, name: str) -> str:
        """What a container wrote, as `kubectl logs` shows it."""
        return (self.folder / name / "console").read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """Ends everything, hard."""
        for process in self._processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes.values():
            process.wait(60)

    def _start(self, pod: Doc) -> None:
        [container] = pod["spec"]["containers"]
        root = self.folder / pod["metadata"]["name"]
        mounts = {each["mountPath"]: self._volume(pod, root, each["name"]) for each in container["volumeMounts"]}
        environment = {each["name"]: _inside(each["value"], mounts) for each in container["env"]}
        # The boot script powers off and installs services where it takes itself for a whole machine.
        assert Path(environment["STYX_BOOT_ROOT"]).is_relative_to(root), environment
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with (root / "console").open("wb") as console:
            self._processes[pod["metadata"]["uid"]] = subprocess.Popen(
                [_inside(word, mounts) for word in container["command"]],
                env={"PATH": programs, **environment},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd=root,
                start_new_session=True,
            )

    def _volume(self, pod: Doc, root: Path, name: str) -> Path:
        path = root / "volumes" / name
        path.mkdir(parents=True)
        [volume] = [each for each in pod["spec"]["volumes"] if each["name"] == name]
        if "secret" in volume:
            secret = self._double.secrets[pod["metadata"]["namespace"], volume["secret"]["secretName"]]
            for file, coded in secret["data"].items():
                (path / file).write_bytes(base64.b64decode(coded))
        return path

    def _watch(self, pod: Doc) -> None:
        uid = pod["metadata"]["uid"]
        process = self._processes[uid]
        if process.poll() is not None:
            self._double.report_exit(pod, process.returncode)
        elif "deletionTimestamp" in pod["metadata"]:
            self._stop(uid, process, pod["metadata"]["deletionGracePeriodSeconds"])

    def _stop(self, uid: str, process: subprocess.Popen[bytes], grace_seconds: float) -> None:
        if uid not in self._asked_at:
            self._asked_at[uid] = time.monotonic()
            process.send_signal(signal.SIGTERM)
        elif time.monotonic() - self._asked_at[uid] > grace_seconds:
            os.killpg(process.pid, signal.SIGKILL)


def _inside(text: str, mounts: Mapping[str, Path]) -> str:
    """A path in the container, where it is out here."""
    for inside, outside in mounts.items():
        if text == inside or text.startswith(f"{inside}/"):
            return str(outside) + text.removeprefix(inside)
    return text
