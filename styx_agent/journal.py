"""Who this agent is, on disk before it is said: its secret, its number, the deployment, its last epoch.

What it runs is in the supervisor's journal. Next: `link.py`, which joins and counts epochs.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import structlog

from styx_agent import ids
from styx_agent.errors import AgentError, WrongDeployment

log = structlog.get_logger(__name__)

_FILE = "identity.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who an agent is.

    Attributes:
        secret: its key, made by itself; the server knows the digest from Join.
        agent_id: 0 until it has joined.
        last_epoch: of the last session that it had.
    """

    secret: str
    agent_id: int = 0
    deployment_id: str = ""
    last_epoch: int = 0

    @property
    def key_digest(self) -> bytes:
        """What Join says of the secret."""
        return hashlib.sha256(self.secret.encode("ascii")).digest()

    @property
    def token(self) -> str:
        """What proves who it is."""
        return f"styx_agent_{self.agent_id}_{self.secret}"


class Journal:
    """The file `identity.json` (0600)."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / _FILE
        self._identity = self._load()

    @property
    def identity(self) -> Identity:
        """What is on disk."""
        return self._identity

    def check_deployment(self, deployment_id: str) -> None:
        """Holds a server's deployment against the one that was joined; empty: the server did not say.

        Raises:
            WrongDeployment: they differ.
        """
        joined = self._identity.deployment_id
        if joined and deployment_id and deployment_id != joined:
            raise WrongDeployment(
                f"this server belongs to deployment {deployment_id}, the agent joined {joined}; "
                "use another --data-dir to join here"
            )

    def joined(self, *, agent_id: int, deployment_id: str) -> None:
        """The server knows this agent by a number."""
        self._save(replace(self._identity, agent_id=agent_id, deployment_id=deployment_id))

    def session_opened(self, epoch: int) -> None:
        """The next session must have a larger epoch."""
        identity = replace(self._identity, last_epoch=max(epoch, self._identity.last_epoch))
        try:
            self._save(identity)
        except OSError as error:
            # A full disk must not keep us from the server that takes what fills it; the database knows the epoch too.
            log.warning("identity_unsaved", error=str(error))
            self._identity = identity

    def _load(self) -> Identity:
        try:
            return Identity(**json.loads(self._path.read_text(encoding="ascii")))
        except FileNotFoundError:
            identity = Identity(secret=ids.new_secret())
            self._save(identity)
            return identity
        except (OSError, ValueError, TypeError) as error:
            raise AgentError(
                f"{self._path} cannot be read ({error}); restore it, or remove it to join as a new agent"
            ) from None

    def _save(self, identity: Identity) -> None:
        temporary = self._path.with_suffix(".new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            json.dump(asdict(identity), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self._identity = identity
