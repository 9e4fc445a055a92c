"""Who can say that a machine is taken back, and how it is understood."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from styx_agent import clock
from styx_agent.config import load
from styx_agent.errors import BadSettings
from styx_agent.notices.metadata import MetadataError
from styx_agent.notices.notice import MARGIN_MICROS, SECOND, Notice, notice_in
from styx_agent.notices.setting import NoticeSetting, read_setting
from styx_agent.notices.sources import METADATA, AwsSource, FileSource, GcpSource
from styx_agent.notices.watching import Watch
from tests.support.metadata_service import MetadataService, metadata_service
from tests.support.until import soon

URL = ["--server-url", "http://localhost:8080"]


@pytest.fixture
def metadata() -> Iterator[MetadataService]:
    with metadata_service() as service:
        yield service


def left(notice: Notice | None) -> float:
    assert notice is not None
    return notice.left_micros(clock.boottime_micros()) / SECOND


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("/run/notice.json", NoticeSetting(kind="file", place="/run/notice.json")),
        ("file:/run/notice.json", NoticeSetting(kind="file", place="/run/notice.json")),
        ("aws", NoticeSetting(kind="aws", place=METADATA)),
        ("gcp:http://127.0.0.1:1", NoticeSetting(kind="gcp", place="http://127.0.0.1:1")),
        ("term:60", NoticeSetting(kind="term", seconds=60)),
        ("kubernetes", NoticeSetting(kind="term", seconds=30)),
    ],
)
def test_a_setting_names_who_is_asked(text: str, setting: NoticeSetting) -> None:
    assert read_setting(text) == setting
    assert load([*URL, "--preemption-notice", text], {}).preemption_notice == setting
    assert load(URL, {"STYX_AGENT_PREEMPTION_NOTICE": text}).preemption_notice == setting


@pytest.mark.parametrize("text", ["azure", "file:", "notice.json", "aws:ftp://x", "term:soon", "term:0", "term:1e9"])
def test_a_setting_that_names_nobody_is_refused(text: str) -> None:
    with pytest.raises(BadSettings, match="preemption_notice"):
        load([*URL, "--preemption-notice", text], {})


@pytest.mark.parametrize(("seconds", "kill"), [(120, 115), (20, 15), (8, 6), (0, 0)])
def test_what_has_not_ended_is_killed_a_little_before_the_machine_is(seconds: float, kill: float) -> None:
    notice = notice_in(seconds, "test", 1000)
    assert notice.kill_micros(1000) == 1000 + kill * SECOND
    assert notice.left_micros(10**12) == 0
    assert notice.kill_micros(10**12) == 10**12
    assert MARGIN_MICROS == 5 * SECOND


def test_a_file_is_a_notice_once_it_is_there(tmp_path: Path) -> None:
    source = FileSource(tmp_path / "notice.json")
    assert source.look(waits=True) is None
    deadline = clock.realtime_micros() / SECOND + 30
    (tmp_path / "notice.json").write_text(json.dumps({"deadline": deadline}))
    assert 25 < left(source.look(waits=True)) <= 30
    (tmp_path / "notice.json").write_text(json.dumps({"deadline": deadline - 3600}))
    assert source.look(waits=True) is None, "of an earlier time"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"deadline": "soon"}', "1"])
def test_a_file_that_is_none_is_no_notice(tmp_path: Path, text: str) -> None:
    (tmp_path / "notice.json").write_text(text)
    with pytest.raises(MetadataError, match="deadline"):
        FileSource(tmp_path / "notice.json").look(waits=True)


def in_seconds(seconds: float) -> str:
    at = datetime.fromtimestamp(clock.realtime_micros() / SECOND + seconds, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize("action", ["terminate", "stop", "hibernate"])
def test_ec2_says_what_it_does_and_when(metadata: MetadataService, action: str) -> None:
    source = AwsSource(metadata.url)
    assert source.look(waits=True) is None
    metadata.action = {"action": action, "time": in_seconds(90)}
    assert 80 < left(source.look(waits=True)) <= 90


def test_a_clock_that_is_wrong_makes_no_notice_long_or_late(metadata: MetadataService) -> None:
    source = AwsSource(metadata.url)
    metadata.action = {"action": "terminate", "time": in_seconds(7200)}
    assert 115 < left(source.look(waits=True)) <= 120
    metadata.action = {"action": "terminate", "time": in_seconds(-7200)}
    assert 3 < left(source.look(waits=True)) <= 5
    metadata.action = "soon"
    assert 3 < left(source.look(waits=True)) <= 5


def test_a_token_of_ec2_that_expired_is_replaced(metadata: MetadataService) -> None:
    source = AwsSource(metadata.url)
    assert source.look(waits=True) is None
    metadata.token = "token-2"
    metadata.action = {"action": "terminate", "time": in_seconds(60)}
    assert source.look(waits=True) is not None
    assert metadata.asked.count("PUT /latest/api/token") == 2


def test_a_rebalance_recommendation_is_no_notice(metadata: MetadataService) -> None:
    metadata.rebalance = True
    source = AwsSource(metadata.url)
    assert source.look(waits=True) is None
    assert source.look(waits=True) is None
    assert sum("rebalance" in each for each in metadata.asked) == 1


async def test_compute_engine_says_it_the_moment_it_changes(metadata: MetadataService) -> None:
    heard: list[Notice] = []
    watch = Watch(GcpSource(metadata.url), heard.append)
    watch.start()
    await soon(lambda: metadata.waiting == 1, "the watch waits for a change")
    assert heard == []
    metadata.preempt()
    await soon(lambda: bool(heard), "the notice")
    assert 25 < left(heard[0]) <= 30
    watch.stop()


async def test_a_watch_can_be_asked_while_it_waits(metadata: MetadataService) -> None:
    watch = Watch(GcpSource(metadata.url), lambda _notice: None)
    watch.start()
    await soon(lambda: metadata.waiting == 1, "the watch waits for a change")
    assert await watch.ask() is None
    metadata.preempt()
    assert await watch.ask() is not None
    watch.stop()


async def test_a_service_that_fails_is_asked_again(metadata: MetadataService) -> None:
    metadata.broken = True
    heard: list[Notice] = []
    watch = Watch(AwsSource(metadata.url), heard.append)
    watch.start()
    await soon(lambda: len(metadata.asked) >= 2, "it is asked again")
    metadata.action = {"action": "terminate", "time": in_seconds(60)}
    metadata.broken = False
    await soon(lambda: bool(heard), "the notice")
    watch.stop()


async def test_nobody_there_is_no_notice(metadata: MetadataService) -> None:
    url = metadata.url
    metadata.close()
    watch = Watch(AwsSource(url.rpartition(":")[0] + ":9"), lambda _notice: None)
    assert await watch.ask() is None
    await asyncio.to_thread(lambda: None)
