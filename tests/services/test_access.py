"""Who may come in: bearer tokens, join tokens, and how a stranger becomes an agent once."""

from __future__ import annotations

from datetime import timedelta

import pytest

from styx_server.core.errors import Conflict, NotFound, StyxError, Unauthenticated
from styx_server.core.task import AgentId
from styx_server.ids import new_secret
from styx_server.services.access import Role, digest
from styx_server.services.agents import NewJoinToken
from styx_server.services.tasks import Mutation
from tests.support.server import ONCE, Server, gathered

KEY = digest("a key")
MAKE = Mutation(token_id=1, method="CreateJoinToken", request_id="j1", digest=b"j" * 32)


async def join_token(server: Server, *, uses: int = 1, minutes: float = 1, pool: str = "default") -> str:
    token = f"styx_join_{new_secret()}"
    wanted = NewJoinToken(token=token, max_uses=uses, ttl=timedelta(minutes=minutes), pool=pool, labels={"zone": "eu"})
    await server.app.agents.make_join_token(wanted, ONCE)
    return token


async def join(server: Server, token: str, key: bytes = KEY) -> AgentId:
    return await server.app.agents.join(token, "name", key, "0.1.0")


async def test_a_join_token_makes_one_agent_in_its_pool_with_its_labels(server: Server) -> None:
    agent_id = await join(server, await join_token(server, pool="gpu"))
    view = await server.app.agents.get(agent_id)
    assert (view.pool, view.labels, view.name) == ("gpu", {"zone": "eu"}, "name")


async def test_joining_again_with_the_same_key_gives_the_same_agent_even_when_the_token_is_used_up(
    server: Server,
) -> None:
    token = await join_token(server)
    first = await join(server, token)
    await server.rows("update tokens set expire_time = now() - interval '1 hour'")
    assert await join(server, token) == first
    (row,) = await server.rows("select uses from tokens where kind = 'join'")
    assert row["uses"] == 1


async def test_joining_at_once_with_the_same_key_gives_the_same_agent(server: Server) -> None:
    for uses in (1, 100):
        token = await join_token(server, uses=uses)
        key = digest(f"key {uses}")
        answers = await gathered([join(server, token, key) for _ in range(10)])
        assert len(set(answers)) == 1
        assert not isinstance(answers[0], StyxError)


async def test_a_token_makes_no_more_agents_than_its_uses(server: Server) -> None:
    token = await join_token(server, uses=3)
    answers = await gathered([join(server, token, digest(f"key {number}")) for number in range(8)])
    assert sum(isinstance(answer, Unauthenticated) for answer in answers) == 5
    assert len({answer for answer in answers if isinstance(answer, int)}) == 3


async def test_unknown_expired_and_wrong_tokens_make_no_agent(server: Server) -> None:
    await server.app.access.ensure_admin("styx_admin_x")
    expired = await join_token(server)
    await server.rows("update tokens set expire_time = now() - interval '1 s' where kind = 'join'")
    for token in ("", "nonsense", expired, "styx_admin_x"):
        with pytest.raises(Unauthenticated) as caught:
            await join(server, token)
        assert caught.value.reason == "JOIN_TOKEN_INVALID"
    revoked = await join_token(server)
    await server.rows("update tokens set revoke_time = now() where kind = 'join'")
    with pytest.raises(Unauthenticated):
        await join(server, revoked)


async def test_a_key_that_joined_with_another_token_is_refused_and_the_token_not_spent(server: Server) -> None:
    await join(server, await join_token(server))
    other = await join_token(server)
    with pytest.raises(Unauthenticated) as caught:
        await join(server, other)
    assert caught.value.reason == "JOIN_TOKEN_INVALID"
    await join(server, other, digest("another key"))


async def test_a_repeated_request_for_a_join_token_gives_the_same_end(server: Server) -> None:
    wanted = NewJoinToken(token="styx_join_x", max_uses=1, ttl=timedelta(hours=1), pool="default", labels={})
    first = await server.app.agents.make_join_token(wanted, MAKE)
    assert await server.app.agents.make_join_token(wanted, MAKE) == first
    other = Mutation(token_id=1, method="CreateJoinToken", request_id="j1", digest=b"k" * 32)
    with pytest.raises(Conflict):
        await server.app.agents.make_join_token(wanted, other)


async def test_labels_of_the_join_token_win_over_the_agents_own(server: Server) -> None:
    agent_id = await join(server, await join_token(server))
    labels = {"zone": "faked", "disk": "ssd"}
    row = await server.database.fetch_row(
        "update_agent", id=agent_id, labels=labels, capacity={}, facts={}, isolation="", version="", queues=False
    )
    assert row is not None
    assert row["labels"] == {"zone": "eu", "disk": "ssd"}


async def test_only_the_right_secret_is_let_in(server: Server) -> None:
    await server.app.access.ensure_admin("styx_admin_secret")
    await server.app.access.ensure_admin("styx_admin_secret")
    agent_id = await join(server, await join_token(server), digest("agent secret"))
    admin = await server.app.access.authenticate("styx_admin_secret")
    agent = await server.app.access.authenticate(f"styx_agent_{agent_id}_agent secret")
    assert (admin.role, agent.role, agent.agent_id) == (Role.ADMIN, Role.AGENT, agent_id)
    join_only = await join_token(server)
    for token in (
        "",
        "styx_admin_secre",
        "styx_admin_secret ",
        "STYX_ADMIN_SECRET",
        join_only,
        f"styx_agent_{agent_id}_",
        f"styx_agent_{agent_id}_wrong",
        f"styx_agent_{agent_id + 1}_agent secret",
        f"styx_agent_0{agent_id}_wrong",
        "styx_agent__agent secret",
        "styx_agent_-1_agent secret",
        "styx_agent_1²_agent secret",
        f"styx_agent_{'9' * 30}_agent secret",
        "\x00",
        "'; drop table tokens; --",
    ):
        with pytest.raises(Unauthenticated):
            await server.app.access.authenticate(token)


async def test_a_removed_agent_and_a_revoked_token_are_let_in_no_more(server: Server) -> None:
    await server.app.access.ensure_admin("styx_admin_secret")
    agent_id = await join(server, await join_token(server), digest("agent secret"))
    await server.rows("update tokens set revoke_time = now()")
    await server.rows("update agents set revoke_time = now()")
    for token in ("styx_admin_secret", f"styx_agent_{agent_id}_agent secret"):
        with pytest.raises(Unauthenticated):
            await server.app.access.authenticate(token)


async def test_no_secret_is_stored(server: Server) -> None:
    await server.app.access.ensure_admin("styx_admin_verysecret")
    token = await join_token(server)
    await join(server, token, digest("agentsecret"))
    rows = await server.rows("select t::text as text from tokens t union all select a::text from agents a")
    assert not any("secret" in row["text"] or token in row["text"] for row in rows)


async def test_agents_are_listed_by_id_and_an_unknown_one_is_not_found(server: Server) -> None:
    agents = [await server.join() for _ in range(5)]
    first = await server.app.agents.page(0, 3)
    rest = await server.app.agents.page(first[-1].agent_id, 3)
    assert [view.agent_id for view in (*first, *rest)] == [agent.agent_id for agent in agents]
    with pytest.raises(NotFound) as caught:
        await server.app.agents.get(AgentId(999))
    assert caught.value.reason == "AGENT_NOT_FOUND"
    with pytest.raises(NotFound):
        await server.app.agents.drain(AgentId(999), ONCE, draining=True)
