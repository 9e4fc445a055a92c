"""From an order to the first line of output: a real server and a real agent, in a pod that a kubelet of ours starts."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

import styx
from styx.models import Agent, AgentState, TaskState
from styx_server.core.machines.instance import Boot, CloudMachine, MachineState
from styx_server.embedded import PostgresAddress
from tests.providers.kubernetes_market import DEPLOYMENT, NAMESPACE, REGION, KubernetesMarket, open_market, order
from tests.providers.local_kubelet import LocalKubelet
from tests.support.ports import free_port
from tests.support.server_process import TOKEN, ServerProcess
from tests.support.supervisor_driver import processes, sleepers
from tests.support.until import soon, soon_true

SLEEP = "31561"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A server, a cluster whose pods really run, and the provider between them."""

    market: KubernetesMarket
    kubelet: LocalKubelet
    client: styx.AsyncClient
    url: str

    async def rented(self) -> CloudMachine:
        """A machine whose agent is connected."""
        token = (await self.client.create_join_token()).token
        boot = Boot(server_urls=(self.url,), join_token=token, agent_name="i7")
        machine = await self.market.provider.rent(replace(order("styx-a1"), boot=boot))
        await soon_true(self._joined, "the agent has joined", seconds=60)
        return machine

    async def agents(self) -> list[Agent]:
        return [agent async for agent in self.client.agents()]

    async def listed(self) -> list[CloudMachine]:
        return list(await self.market.provider.list(DEPLOYMENT, REGION))

    async def _joined(self) -> bool:
        self.kubelet.turn()
        return any(agent.state == AgentState.READY for agent in await self.agents())


@asynccontextmanager
async def _running(folder: Path, database_url: str) -> AsyncIterator[Cluster]:
    server = ServerProcess(folder / "server", database_url)
    server.start()
    try:
        endpoint = await server.ready()
        # Not pytest's own folder: the agent has a socket in there, and its path is short.
        with tempfile.TemporaryDirectory(prefix="styx-pods-") as pods:
            async with open_market(folder) as market, styx.AsyncClient(endpoint["http"], TOKEN) as client:
                kubelet = LocalKubelet(market.double, Path(pods))
                try:
                    yield Cluster(market=market, kubelet=kubelet, client=client, url=endpoint["http"])
                finally:
                    kubelet.close()
    finally:
        await server.stop()


@pytest.fixture
async def cluster(tmp_path: Path, database: PostgresAddress) -> AsyncIterator[Cluster]:
    async with _running(tmp_path, database.url) as running:
        yield running


async def test_a_pod_becomes_an_agent_that_runs_a_task_and_goes(cluster: Cluster) -> None:
    machine = await cluster.rented()
    [agent] = await cluster.agents()
    assert agent.name == "i7"
    assert agent.capacity is not None
    assert (agent.capacity.cpus, agent.capacity.memory_bytes) == (1.0, 2 << 30)
    task_id = await cluster.client.submit_task("echo from a pod")
    assert b"".join([chunk.data async for chunk in cluster.client.logs(task_id, follow=True)]) == b"from a pod\n"
    assert [each.state for each in await cluster.listed()] == [MachineState.RUNNING]
    await cluster.market.provider.release(machine.place, machine.cloud_id)
    assert [each.state for each in await cluster.listed()] == [MachineState.ENDING]
    await soon(lambda: cluster.kubelet.gone(machine.cloud_id), "the pod ends")
    assert await cluster.listed() == []
    cluster.kubelet.turn()
    assert cluster.market.double.secrets == {}


async def test_a_pod_that_is_taken_back_tells_the_server_and_leaves_nothing(cluster: Cluster) -> None:
    machine = await cluster.rented()
    task_id = await cluster.client.submit_task(f"setsid sleep {SLEEP} & sleep {SLEEP}")
    await soon(lambda: len(sleepers(SLEEP)) == 2, "the task and its stray run")
    # An eviction is a deletion with the pod's own grace.
    pod = cluster.market.double.pods[NAMESPACE, machine.cloud_id]
    cluster.market.double.condition(pod, "DisruptionTarget", "True", "EvictionByEvictionAPI", "drained")
    await cluster.market.provider.release(machine.place, machine.cloud_id)
    assert [(each.state, each.reason) for each in await cluster.listed()] == [(MachineState.ENDING, "preempted")]
    await soon(lambda: cluster.kubelet.gone(machine.cloud_id), "the pod ends")
    assert sleepers(SLEEP) == []
    assert processes(str(cluster.kubelet.folder)) == []
    [attempt] = (await cluster.client.get_task(task_id)).attempts
    assert attempt.outcome is not None
    assert attempt.outcome.kind == "PREEMPTED"


async def test_an_agent_that_is_refused_ends_its_pod(cluster: Cluster) -> None:
    boot = Boot(server_urls=(cluster.url,), join_token="styxj_1_wrong", agent_name="i7")
    await cluster.market.provider.rent(replace(order("styx-a1"), boot=boot))

    async def ended() -> bool:
        cluster.kubelet.turn()
        return [each.state for each in await cluster.listed()] == [MachineState.ENDED]

    await soon_true(ended, "the pod ends", seconds=60)
    [machine] = await cluster.listed()
    assert machine.reason == "agent_exited"
    assert "join token" in cluster.kubelet.console(machine.cloud_id)


# All of it together: nobody orders anything.


async def test_a_task_alone_rents_a_pod_runs_there_and_gives_it_back(tmp_path: Path, database: PostgresAddress) -> None:
    connection = await asyncpg.connect(database.url)
    await connection.execute("""update pools set spec = '{"idle_seconds": 1}' where name = 'default'""")
    await connection.close()
    async with open_market(tmp_path) as market, renting_server(tmp_path, database.url) as client:
        with tempfile.TemporaryDirectory(prefix="styx-pods-") as pods:
            kubelet = LocalKubelet(market.double, Path(pods))
            try:
                task_id = await client.submit_task("echo from a rented pod")

                async def has_run() -> bool:
                    turn(market, kubelet)
                    return (await client.get_task(task_id)).state == TaskState.SUCCEEDED

                async def given_back() -> bool:
                    turn(market, kubelet)
                    # An agent that is told that it is not needed may end its pod before that is deleted.
                    over = [pod["status"]["phase"] in {"Failed", "Succeeded"} for pod in market.double.pods.values()]
                    return all(over) and len(market.double.secrets) == len(over)

                await soon_true(has_run, "the task has run", seconds=100)
                chunks = [chunk.data async for chunk in client.logs(task_id)]
                assert b"".join(chunks) == b"from a rented pod\n"
                await soon_true(given_back, "the pod is given back", seconds=60)
                assert len(market.double.ever) == 1
                await soon(lambda: not processes(pods), "nothing of the pod is left")
            finally:
                kubelet.close()


def turn(market: KubernetesMarket, kubelet: LocalKubelet) -> None:
    """Time passes in the cluster as it does here, since the server looks at both."""
    market.double.now = datetime.now(UTC)
    kubelet.turn()


@asynccontextmanager
async def renting_server(folder: Path, database_url: str) -> AsyncIterator[styx.AsyncClient]:
    """A server that may rent pods of the cluster whose kubeconfig is in the folder; all its times are a fifth."""
    config = folder / "server.toml"
    table = f'namespace = "{NAMESPACE}"\nkubeconfig = "{folder}/kubeconfig"\ncontexts = {{ {REGION} = "test" }}'
    config.write_text(f'providers = ["kubernetes"]\n[kubernetes]\n{table}\n')
    url = f"http://127.0.0.1:{(port := free_port())}"
    flags = ("--config", str(config), "--http-port", str(port), "--http-addresses", url, "--lease-scale", "0.2")
    server = ServerProcess(folder / "server", database_url, *flags)
    server.start()
    try:
        await server.ready()
        async with styx.AsyncClient(url, TOKEN) as client:
            yield client
    except BaseException as error:
        error.add_note(server.log.read_text()[-6000:])
        raise
    finally:
        await server.stop()
