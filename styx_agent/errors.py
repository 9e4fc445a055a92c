"""What can end the agent.

    AgentError
    |-- BadSettings       a flag, variable or file is wrong: exit code 2
    |-- JoinRefused       the server does not take this join token: exit code 2
    |-- WrongDeployment   this server is not the one that was joined: exit code 2
    |-- AgentRemoved      an operator removed this agent: exit code 3
    |-- AlreadyRunning    another agent uses this data directory: exit code 1
    `-- SupervisorFailed  the supervisor cannot be started: exit code 1

Everything else is a reason to wait and to try again. Next: `__main__.py`, which turns these into exit codes.
"""

from __future__ import annotations


class AgentError(Exception):
    """The agent cannot go on; the text says what to do."""

    exit_code = 1


class BadSettings(AgentError):
    """A flag, variable or file is wrong."""

    exit_code = 2


class JoinRefused(AgentError):
    """The server does not take this join token."""

    exit_code = 2


class WrongDeployment(AgentError):
    """The server belongs to another deployment than the one that was joined."""

    exit_code = 2


class AgentRemoved(AgentError):
    """An operator removed this agent: what runs here is stopped, and it does not come back by itself."""

    exit_code = 3


class AlreadyRunning(AgentError):
    """Another agent uses this data directory."""


class SupervisorFailed(AgentError):
    """The supervisor cannot be started."""
