"""What each answer of a cluster means. The words are those of real API servers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from styx_server.core.machines.refusal import RefusalKind, Scope
from styx_server.providers.kubernetes import KubernetesProvider, KubernetesSettings
from styx_server.providers.kubernetes.errors import BadKubeconfig, ClusterAnswer, refusal, unreachable
from styx_server.providers.ports import ProviderError
from tests.providers.kube_double import Refused, write_kubeconfig
from tests.providers.kubernetes_market import NAMESPACE, REGION, open_market, order

K = RefusalKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    status: int
    reason: str = ""
    message: str = ""
    field: str = ""
    kind: RefusalKind
    scope: Scope | None = None


CASES = {
    "quota": Case(
        status=403,
        reason="Forbidden",
        message='pods "styx-1" is forbidden: exceeded quota: compute, requested: requests.cpu=4, '
        "used: requests.cpu=38, limited: requests.cpu=40",
        kind=K.QUOTA,
    ),
    "quota of openshift": Case(
        status=403,
        reason="Forbidden",
        message='pods "styx-1" is forbidden: exceeded quota: team, requested: limits.memory=8Gi',
        kind=K.QUOTA,
    ),
    "limit range": Case(
        status=403,
        reason="Forbidden",
        message='pods "styx-1" is forbidden: maximum cpu usage per Container is 2, but limit is 4',
        kind=K.QUOTA,
        scope=Scope.TYPE,
    ),
    "no permission": Case(
        status=403,
        reason="Forbidden",
        message='pods is forbidden: User "system:serviceaccount:styx:styx" cannot create resource "pods" in API '
        'group "" in the namespace "ml"',
        kind=K.PERMISSION,
    ),
    "pod security": Case(
        status=403,
        reason="Forbidden",
        message='pods "styx-1" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true',
        kind=K.PERMISSION,
    ),
    "webhook of a policy, as 403": Case(
        status=403,
        reason="Forbidden",
        message='admission webhook "validate.kyverno.svc" denied the request: no such registry',
        kind=K.PERMISSION,
    ),
    "webhook of a policy, as 400": Case(
        status=400,
        message='admission webhook "validation.gatekeeper.sh" denied the request: [labels] missing',
        kind=K.PERMISSION,
    ),
    "namespace ends": Case(
        status=403,
        reason="Forbidden",
        message='pods "styx-1" is forbidden: unable to create new content in namespace ml because it is being '
        "terminated",
        kind=K.BAD_REQUEST,
        scope=Scope.REGION,
    ),
    "no namespace": Case(
        status=404,
        reason="NotFound",
        message='namespaces "ml" not found',
        kind=K.BAD_REQUEST,
        scope=Scope.REGION,
    ),
    "not believed": Case(status=401, reason="Unauthorized", message="Unauthorized", kind=K.CREDENTIALS),
    "name taken": Case(status=409, reason="AlreadyExists", message='pods "styx-1" already exists', kind=K.BAD_REQUEST),
    "quota changed meanwhile": Case(
        status=409,
        reason="Conflict",
        message='Operation cannot be fulfilled on resourcequotas "team": the object has been modified; please apply '
        "your changes to the latest version and try again",
        kind=K.THROTTLED,
    ),
    "bad image": Case(
        status=422,
        reason="Invalid",
        message='Pod "styx-1" is invalid: spec.containers[0].image: Invalid value: " a"',
        field="spec.containers[0].image",
        kind=K.BAD_IMAGE,
    ),
    "bad field": Case(
        status=422,
        reason="Invalid",
        message='Pod "styx-1" is invalid: spec.tolerations[0].key',
        field="spec.tolerations[0].key",
        kind=K.BAD_REQUEST,
    ),
    "unknown field": Case(
        status=400, reason="BadRequest", message="strict decoding error: unknown field", kind=K.BAD_REQUEST
    ),
    "throttled": Case(status=429, reason="TooManyRequests", message="too many requests", kind=K.THROTTLED),
    "webhook away": Case(
        status=500,
        reason="InternalError",
        message='Internal error occurred: failed calling webhook "x": context deadline exceeded',
        kind=K.UNAVAILABLE,
    ),
    "bad gateway, no document": Case(status=502, kind=K.UNAVAILABLE),
    "unavailable": Case(status=503, reason="ServiceUnavailable", message="apiserver is starting", kind=K.UNAVAILABLE),
    "timeout of the server": Case(status=504, reason="Timeout", message="request did not complete", kind=K.TIMEOUT),
    "too large": Case(status=413, reason="RequestEntityTooLarge", message="limit is 3145728", kind=K.BAD_REQUEST),
    "a status that nobody knows": Case(status=418, message="teapot", kind=K.BAD_REQUEST),
    "a failure that nobody knows": Case(status=599, kind=K.UNAVAILABLE),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_an_answer_means(case: Case) -> None:
    causes = {"causes": [{"field": case.field}]} if case.field else {}
    body = {"reason": case.reason, "message": case.message, "details": causes} if case.message else {}
    error = refusal(ClusterAnswer(region="lab", doing="make pod styx-1", status=case.status, body=body))
    assert error.kind is case.kind
    assert case.scope is None or error.scope is case.scope
    assert error.code == f"{case.status} {case.reason}".strip()
    assert error.message.startswith("cluster lab did not make pod styx-1: ")
    assert case.message in error.message


@pytest.mark.parametrize(
    ("details", "header", "seconds"),
    [({"retryAfterSeconds": 5}, "", 5.0), ({}, "7", 7.0), ({}, "", None), ({}, "Wed, 21 Oct 2026", None)],
)
def test_a_cluster_says_how_long_to_leave_it_alone(details: object, header: str, seconds: float | None) -> None:
    body = {"reason": "TooManyRequests", "message": "later", "details": details}
    error = refusal(ClusterAnswer(region="lab", doing="list pods", status=429, body=body, retry_after=header))
    assert error.retry_after_seconds == seconds


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), K.TIMEOUT),
        (ConnectionRefusedError(111, "Connection refused"), K.UNAVAILABLE),
        (ConnectionResetError(), K.UNAVAILABLE),
        (ssl.SSLCertVerificationError("self-signed certificate"), K.CREDENTIALS),
        (BadKubeconfig("there is no file /nowhere"), K.CREDENTIALS),
    ],
)
def test_no_answer_means(error: Exception, kind: RefusalKind) -> None:
    found = unreachable("lab", "list pods", error)
    assert found.kind is kind
    assert found.message.startswith("cluster lab did not list pods: ")
    assert not found.message.endswith(": ")


# The same, over a real connection.


def provider_at(folder: Path, server: str, **more: object) -> KubernetesProvider:
    kubeconfig = write_kubeconfig(folder, server, "token")
    return KubernetesProvider(KubernetesSettings(kubeconfig=str(kubeconfig), contexts={REGION: "test"}, **more))  # type: ignore[arg-type]


@asynccontextmanager
async def answering(handler: object) -> AsyncIterator[str]:
    """A server that gives one answer to everything; its address."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)  # type: ignore[arg-type]
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def caught_from(provider: KubernetesProvider) -> ProviderError:
    try:
        with pytest.raises(ProviderError) as caught:
            await provider.list("deployment-1", REGION)
    finally:
        await provider.close()
    return caught.value


async def test_nobody_listens(tmp_path: Path) -> None:
    error = await caught_from(provider_at(tmp_path, "http://127.0.0.1:1"))
    assert (error.kind, error.code) == (K.UNAVAILABLE, "ClientConnectorError")


async def test_a_page_of_a_proxy_is_not_an_empty_list(tmp_path: Path) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>please log in</html>", content_type="text/html")

    async with answering(page) as server:
        error = await caught_from(provider_at(tmp_path, server))
    assert error.kind is K.UNAVAILABLE
    assert "not a Kubernetes API" in error.message


async def test_a_cluster_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    async def silence(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    async with answering(silence) as server:
        error = await caught_from(provider_at(tmp_path, server, request_seconds=0.05))
    assert error.kind is K.TIMEOUT
    assert not error.fate_known


async def test_a_kubeconfig_that_is_not_there_is_said(tmp_path: Path) -> None:
    provider = KubernetesProvider(KubernetesSettings(kubeconfig=str(tmp_path / "none"), contexts={REGION: "test"}))
    error = await caught_from(provider)
    assert error.kind is K.CREDENTIALS
    assert str(tmp_path / "none") in error.message


async def test_a_context_that_is_not_there_is_said(tmp_path: Path) -> None:
    kubeconfig = write_kubeconfig(tmp_path, "http://127.0.0.1:1", "token")
    provider = KubernetesProvider(KubernetesSettings(kubeconfig=str(kubeconfig), contexts={REGION: "typo"}))
    error = await caught_from(provider)
    assert error.kind is K.CREDENTIALS
    assert "typo" in error.message


async def test_a_token_that_ran_out_is_read_anew(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.provider.rent(order("styx-a1"))
        market.double.token = "second-token"
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(kubeconfig.read_text().replace("first-token", "second-token"))
        assert len(await market.provider.list(market.deployment, REGION)) == 1


async def test_a_missing_namespace_is_said_with_the_remedy(tmp_path: Path) -> None:
    async with open_market(tmp_path, namespace="nowhere") as market:
        with pytest.raises(ProviderError, match="kubectl create namespace") as caught:
            await market.provider.rent(order("styx-a1"))
    assert caught.value.kind is K.BAD_REQUEST


async def test_a_full_quota_is_said(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        market.double.pod_quota = 1
        await market.provider.rent(order("styx-a1"))
        with pytest.raises(ProviderError, match="kubectl get resourcequota") as caught:
            await market.provider.rent(order("styx-a2", number=2))
        assert caught.value.kind is K.QUOTA
        assert [name for _, name in market.double.pods] == ["styx-a1"]


async def test_the_secret_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        market.double.denied.add(("create", "secrets"))
        with pytest.raises(ProviderError) as caught:
            await market.provider.rent(order("styx-a1"))
        assert caught.value.kind is K.PERMISSION
        assert market.double.ever == {}


@pytest.mark.parametrize("kind", [K.QUOTA, K.PERMISSION, K.BAD_IMAGE, K.BAD_REQUEST])
async def test_a_pod_that_is_refused_for_good_leaves_no_secret(tmp_path: Path, kind: RefusalKind) -> None:
    async with open_market(tmp_path) as market:
        await market.refuse(RefusalKind.THROTTLED)
        await market.refuse(kind)
        for _ in range(2):
            with pytest.raises(ProviderError):
                await market.provider.rent(order("styx-a1"))
        assert market.double.secrets == {}


async def test_a_secret_that_may_have_been_made_is_used_when_the_order_is_made_again(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        market.double.secret_refusals.append(Refused(500, "InternalError", "etcdserver: request timed out"))
        with pytest.raises(ProviderError) as caught:
            await market.provider.rent(order("styx-a1"))
        assert not caught.value.fate_known
        await market.refuse(RefusalKind.UNAVAILABLE)
        with pytest.raises(ProviderError):
            await market.provider.rent(order("styx-a1"))
        await market.provider.rent(order("styx-a1"))
        assert list(market.double.secrets) == [(NAMESPACE, "styx-a1-styx-boot")]
        assert len(market.double.ever) == 1
