"""Connections to Amazon, and the threads that use them. Translates nothing but errors. Next: `errors.py`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from styx_server.providers.aws.errors import is_refusal, refusal
from styx_server.providers.aws.settings import AwsSettings

T = TypeVar("T")

PATIENT_ATTEMPTS: Final = 5
PATIENT_THREADS: Final = 2
"""Reading all prices takes minutes; it must not stand in the way of a rent or a release."""


class Clients:
    """boto3's clients, made when they are first wanted.

    A client may be used by many threads; the session that makes them may not, hence the lock.
    """

    def __init__(self, settings: AwsSettings) -> None:
        self._settings = settings
        self._executor = ThreadPoolExecutor(max_workers=settings.threads, thread_name_prefix="styx-aws")
        self._patient = ThreadPoolExecutor(max_workers=PATIENT_THREADS, thread_name_prefix="styx-aws-prices")
        self._lock = threading.Lock()
        self._session: Any = None
        self._clients: dict[tuple[str, str, bool], Any] = {}

    async def call(self, work: Callable[[], T], what: str, *, patient: bool = False) -> T:
        """Does blocking work in a thread.

        Args:
            work: calls boto3.
            what: of whom an error speaks, for people: a type and a place.
            patient: it may take minutes, and waits for others of its kind.

        Raises:
            ProviderError: whatever Amazon or the network had against it.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._patient if patient else self._executor, work)
        except Exception as error:
            if is_refusal(error):
                raise refusal(error, what) from error
            raise

    def get(self, service: str, region: str, *, patient: bool = False) -> Any:
        """The client of a service in a region. Blocks; call it in a thread.

        Args:
            service: boto3's name for it.
            region: in which.
            patient: it repeats a call that failed. Good for reading; a rent is repeated only by whoever keeps the row,
                and EC2 says "no capacity" as a server error, which boto3 would take for a reason to ask again.
        """
        with self._lock:
            found = self._clients.get((service, region, patient))
            if found is None:
                found = self._make(service, region, attempts=PATIENT_ATTEMPTS if patient else 1)
                self._clients[service, region, patient] = found
            return found

    def _make(self, service: str, region: str, *, attempts: int) -> Any:
        import boto3.session
        from botocore.config import Config

        settings = self._settings
        if self._session is None:
            self._session = boto3.session.Session(profile_name=settings.profile or None)
        config = Config(
            connect_timeout=settings.connect_timeout_seconds,
            read_timeout=settings.read_timeout_seconds,
            retries={"total_max_attempts": attempts, "mode": "standard"},
            max_pool_connections=settings.threads,
        )
        return self._session.client(
            service, region_name=region, endpoint_url=settings.endpoint_url or None, config=config
        )

    def close(self) -> None:
        """Lets go of threads and connections. Calls under way end by themselves."""
        for executor in (self._executor, self._patient):
            executor.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()
