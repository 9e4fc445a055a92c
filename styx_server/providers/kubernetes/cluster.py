"""One cluster: loads the client library in a thread, connects with the kubeconfig, calls, and translates errors.

Answers are the plain documents of the API. The library's own classes are left out on the way back: they refuse a whole
list when one object in it has a field that they do not know. Next: `provider.py`.
"""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final

from styx_server.core.machines.refusal import RefusalKind
from styx_server.providers.kubernetes.errors import BadKubeconfig, ClusterAnswer, ClusterError, refusal, unreachable
from styx_server.providers.kubernetes.settings import IN_CLUSTER, KubernetesSettings

Document = Mapping[str, Any]

_PAGE: Final = 500
# Larger answers are parsed in a thread: half a megabyte takes longer than others should wait.
_SMALL_BYTES: Final = 64 * 1024
_LIST_TRIES: Final = 3
_EXPIRED: Final = 410


class Call(Enum):
    """What is asked of a cluster: group of the API, and the library's name for it."""

    MAKE_POD = ("CoreV1Api", "create_namespaced_pod")
    READ_POD = ("CoreV1Api", "read_namespaced_pod")
    DELETE_POD = ("CoreV1Api", "delete_namespaced_pod")
    LIST_PODS = ("CoreV1Api", "list_namespaced_pod")
    LIST_ALL_PODS = ("CoreV1Api", "list_pod_for_all_namespaces")
    LIST_NODES = ("CoreV1Api", "list_node")
    MAKE_SECRET = ("CoreV1Api", "create_namespaced_secret")
    PATCH_SECRET = ("CoreV1Api", "patch_namespaced_secret")
    DELETE_SECRET = ("CoreV1Api", "delete_namespaced_secret")
    WHO_AM_I = ("AuthenticationV1Api", "create_self_subject_review")
    MAY_I = ("AuthorizationV1Api", "create_self_subject_access_review")


class Cluster:
    """A connection to one cluster, made at the first call and again when the cluster does not believe it any more."""

    def __init__(self, region: str, context: str, settings: KubernetesSettings) -> None:
        self.region = region
        self._context = context
        self._settings = settings
        self._client: Any = None
        self._retired: Any = None
        self._library: Any = None
        self._connecting = asyncio.Lock()

    async def call(self, call: Call, doing: str, *arguments: Any, **options: Any) -> dict[str, Any]:
        """The document that the cluster answers with.

        Raises:
            ProviderError: it did not do it; a ClusterError when it said why.
        """
        client = await self._connected(doing)
        try:
            return await self._once(client, call, doing, *arguments, **options)
        except ClusterError as error:
            if error.kind is not RefusalKind.CREDENTIALS:
                raise
        # Tokens of a kubeconfig run out, and are made anew only when it is read again. Nothing was done: once more.
        await self._retire(client)
        return await self._once(await self._connected(doing), call, doing, *arguments, **options)

    async def pages(self, call: Call, doing: str, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        """All objects, over all pages; starts again when the cluster has forgotten where the list stood."""
        for _ in range(_LIST_TRIES - 1):
            try:
                return await self._walk(call, doing, *arguments, **options)
            except ClusterError as error:
                if error.status != _EXPIRED:
                    raise
        return await self._walk(call, doing, *arguments, **options)

    async def close(self) -> None:
        """Ends the connection."""
        async with self._connecting:
            for client in (self._retired, self._client):
                if client is not None:
                    await client.close()
            self._retired = self._client = None

    async def _walk(self, call: Call, doing: str, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        page: dict[str, Any] = {}
        while True:
            answer = await self.call(call, doing, *arguments, limit=_PAGE, **options, **page)
            found += answer.get("items") or ()
            token = (answer.get("metadata") or {}).get("continue")
            if not token:
                return found
            page = {"_continue": token}

    async def _once(self, client: Any, call: Call, doing: str, *arguments: Any, **options: Any) -> dict[str, Any]:
        group, verb = call.value
        method = getattr(getattr(self._library, group)(client), verb)
        try:
            status, retry_after, raw = await self._exchange(method, *arguments, **options)
        except (TimeoutError, OSError, self._library_errors()) as error:
            raise unreachable(self.region, doing, error) from error
        body = await _document(raw)
        if 200 <= status <= 299 and "kind" in body:
            return body
        if status <= 299:
            # Of a proxy on the way, say. Taken for an answer it would be an empty list: all machines gone.
            raise unreachable(self.region, doing, OSError("what answers there is not a Kubernetes API"))
        raise refusal(ClusterAnswer(region=self.region, doing=doing, status=status, body=body, retry_after=retry_after))

    async def _exchange(self, method: Any, *arguments: Any, **options: Any) -> tuple[int, str, bytes]:
        response = await method(
            *arguments, _preload_content=False, _request_timeout=self._settings.request_seconds, **options
        )
        async with response:
            return response.status, response.headers.get("Retry-After", ""), await response.read()

    def _library_errors(self) -> type[Exception]:
        kind: type[Exception] = importlib.import_module("aiohttp").ClientError
        return kind

    async def _connected(self, doing: str) -> Any:
        async with self._connecting:
            if self._client is None:
                try:
                    self._client = await self._connect()
                except BadKubeconfig as error:
                    raise unreachable(self.region, doing, error) from error
            return self._client

    async def _connect(self) -> Any:
        self._library = await asyncio.to_thread(_load)
        try:
            configuration = await asyncio.to_thread(self._read_config)
        except Exception as error:
            # It can be wrong in every way that Python has a word for.
            raise BadKubeconfig(str(error) or type(error).__name__) from error
        return self._library.ApiClient(configuration=configuration)

    def _read_config(self) -> Any:
        """In a thread: reads files, and runs the program that a kubeconfig names for its tokens."""
        config = importlib.import_module("kubernetes_asyncio.config")
        # Not a call of the class: that hands out a copy of whatever configuration somebody made the default.
        configuration = type.__call__(self._library.Configuration)
        if self._context == IN_CLUSTER:
            config.load_incluster_config(client_configuration=configuration)
            return configuration
        path = self._settings.kubeconfig or None
        if path is not None and not any(Path(part).expanduser().exists() for part in path.split(":") if part):
            raise FileNotFoundError(f"there is no file {path}")
        asyncio.run(
            config.load_kube_config(
                config_file=path,
                context=self._context or None,
                client_configuration=configuration,
                persist_config=False,
            )
        )
        return configuration

    async def _retire(self, client: Any) -> None:
        """Lets the next call connect anew. Calls under way may still use the old connection, so it is closed later."""
        async with self._connecting:
            if client is not self._client:
                return
            before, self._retired, self._client = self._retired, self._client, None
            if before is not None:
                await before.close()


def current_context(settings: KubernetesSettings) -> str:
    """The context that kubectl would use. Reads files: for a thread.

    Raises:
        ProviderError: there is none.
    """
    try:
        config = importlib.import_module("kubernetes_asyncio.config")
        _, current = config.list_kube_config_contexts(config_file=settings.kubeconfig or None)
        return str(current["name"])
    except Exception as error:
        raise unreachable("(the current context)", "say its name", BadKubeconfig(str(error))) from error


def _load() -> Any:
    """The library; seconds, and a hundred megabytes."""
    return importlib.import_module("kubernetes_asyncio.client")


async def _document(raw: bytes) -> dict[str, Any]:
    """The JSON object in an answer; something in between may say HTML, which is no document at all."""
    try:
        found = json.loads(raw) if len(raw) < _SMALL_BYTES else await asyncio.to_thread(json.loads, raw)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
