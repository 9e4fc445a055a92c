"""Speaks to Google: the only module that does. Loads its libraries, holds its clients and the threads that wait for it.

The libraries are synchronous, so every call is made in one of a few threads. They are told not to repeat calls by
themselves: who rents knows when and how to ask again. Next: `renting.py`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

from styx_server.providers.gcp.errors import Refused, explain, refused_by
from styx_server.providers.gcp.settings import GcpSettings

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.auth.transport.requests import AuthorizedSession
    from google.cloud import compute_v1

_T = TypeVar("_T")

SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
PAGE: Final = 500
"""The most that Google gives at once."""

_QUIET: Final = "NO_RESULTS_ON_PAGE"


class RefusedError(Exception):
    """Something in an answer of Google's amounts to a refusal; `Google.ask` explains it."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.message)
        self.refused = refused


class Clients:
    """Google's clients, each made when it is first needed. Used in threads only: making one takes time."""

    def __init__(self, credentials: Credentials, settings: GcpSettings) -> None:
        self.credentials = credentials
        self.settings = settings
        self.project = settings.project

    def options(self) -> Mapping[str, Any]:
        """How a call is made: once, and not for ever."""
        return {"retry": None, "timeout": self.settings.call_seconds}

    @property
    def billing_endpoint(self) -> str:
        """Where the price list is."""
        return self.settings.billing_endpoint or "https://cloudbilling.googleapis.com"

    @property
    def resources_endpoint(self) -> str:
        """Where it is known who may do what."""
        return self.settings.resources_endpoint or "https://cloudresourcemanager.googleapis.com"

    @cached_property
    def instances(self) -> compute_v1.InstancesClient:
        """Machines."""
        from google.cloud import compute_v1

        return compute_v1.InstancesClient(**self._arguments())

    @cached_property
    def operations(self) -> compute_v1.ZoneOperationsClient:
        """What became of orders. The clients' own way to wait asks Google's public address, whatever we said."""
        from google.cloud import compute_v1

        return compute_v1.ZoneOperationsClient(**self._arguments())

    @cached_property
    def all_operations(self) -> compute_v1.GlobalOperationsClient:
        """Operations of all zones."""
        from google.cloud import compute_v1

        return compute_v1.GlobalOperationsClient(**self._arguments())

    @cached_property
    def zones(self) -> compute_v1.ZonesClient:
        """Zones."""
        from google.cloud import compute_v1

        return compute_v1.ZonesClient(**self._arguments())

    @cached_property
    def machine_types(self) -> compute_v1.MachineTypesClient:
        """Types of machines."""
        from google.cloud import compute_v1

        return compute_v1.MachineTypesClient(**self._arguments())

    @cached_property
    def accelerator_types(self) -> compute_v1.AcceleratorTypesClient:
        """Types of accelerators."""
        from google.cloud import compute_v1

        return compute_v1.AcceleratorTypesClient(**self._arguments())

    @cached_property
    def session(self) -> AuthorizedSession:
        """For APIs that need no library of their own: the price list, and who may do what."""
        from google.auth.transport.requests import AuthorizedSession

        return AuthorizedSession(self.credentials)

    def json(self, method: str, url: str, **arguments: Any) -> dict[str, Any]:
        """What an API answers to a call of `session`."""
        from google.api_core import exceptions

        response = self.session.request(method, url, timeout=self.settings.call_seconds, **arguments)
        if not response.ok:
            raise exceptions.from_http_response(response)
        answer = response.json()
        return answer if isinstance(answer, dict) else {}

    def compute(self, path: str) -> dict[str, Any]:
        """One thing of Compute Engine, for which a client would be too much."""
        base = self.settings.api_endpoint or "https://compute.googleapis.com"
        return self.json("GET", f"{base}/compute/v1/projects/{path}")

    def close(self) -> None:
        """Closes all connections."""
        for name, made in list(vars(self).items()):
            if name == "session":
                made.close()
            elif hasattr(made, "transport"):
                made.transport.close()

    def _arguments(self) -> dict[str, Any]:
        from google.api_core.client_options import ClientOptions

        endpoint = self.settings.api_endpoint
        options = ClientOptions(api_endpoint=endpoint) if endpoint else None
        return {"credentials": self.credentials, "client_options": options}


class Google:
    """Calls to Google, made off the event loop, with refusals translated."""

    def __init__(self, settings: GcpSettings) -> None:
        self.settings = settings
        self._pool = ThreadPoolExecutor(max_workers=settings.threads, thread_name_prefix="styx-gcp")
        self._lock = threading.Lock()
        self._clients: Clients | None = None

    async def ask(self, doing: str, work: Callable[[Clients], _T]) -> _T:
        """What `work` gives, called in a thread.

        Args:
            doing: what for, with its place; the beginning of the message if it is refused.
            work: gets the clients.

        Raises:
            ProviderError: Google refused, or could not be reached.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._work, doing, work)

    def _work(self, doing: str, work: Callable[[Clients], _T]) -> _T:
        try:
            return work(self._connected())
        except RefusedError as error:
            raise explain(error.refused, doing, self.settings.project) from error
        except Exception as error:
            refused = refused_by(error)
            if refused is None:
                raise
            raise explain(refused, doing, self.settings.project) from error

    def _connected(self) -> Clients:
        """The clients; the first call looks for credentials."""
        with self._lock:
            if self._clients is None:
                credentials, project = _credentials(self.settings)
                self.settings = self.settings.in_project(project)
                self._clients = Clients(credentials, self.settings)
            return self._clients

    async def close(self) -> None:
        """Waits for calls that are under way, and closes all connections."""
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)
        if self._clients is not None:
            self._clients.close()


def _credentials(settings: GcpSettings) -> tuple[Credentials, str]:
    """Who we are to Google, and the project that comes with that."""
    import google.auth
    from google.auth.credentials import AnonymousCredentials

    if settings.api_endpoint.startswith("http://"):
        # Not Google: nobody's token is sent where anybody can read it.
        return AnonymousCredentials(), settings.project
    credentials, project = google.auth.default(scopes=[SCOPE])
    return credentials, project or ""


def scoped(pager: Any, member: str) -> Iterator[Any]:
    """All that is listed over all zones.

    Raises:
        RefusedError: a zone could not be asked; what is left out would look as if it were gone.
    """
    for scope, found in pager:
        if found.warning.code not in {"", _QUIET}:
            said = f"{scope}: {found.warning.code} {found.warning.message}"
            raise RefusedError(Refused(code="UNREACHABLE", message=said, status=503))
        yield from getattr(found, member)
