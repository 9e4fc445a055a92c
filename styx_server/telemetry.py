"""Names of all metrics, a documented contract: dashboards and alerts depend on them.

docs/telemetry.md says what each means. Log events are in the modules that emit them, as stable snake_case words.
"""

from __future__ import annotations

import logging
import sys

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

# A gauge with the time of creation beside each counter is noise on every page.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """All metrics of one server process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter(
            "styx_rpc_calls_total", "Finished calls by method and result", ["method", "result"], registry=self.registry
        )
        self.tasks_ended = Counter(
            "styx_tasks_ended_total", "Tasks that ended, by state", ["state"], registry=self.registry
        )
        self.tasks_submitted = Counter("styx_tasks_submitted_total", "Tasks that were stored", registry=self.registry)
        self.tasks_waiting = Gauge(
            "styx_tasks_waiting_in_memory", "Waiting tasks in the scheduler's window", registry=self.registry
        )
        self.sessions = Gauge("styx_agent_sessions", "Open sessions of agents", registry=self.registry)
        self.replicas = Gauge("styx_replicas", "Servers that live on this database", registry=self.registry)
        self.log_bytes = Counter("styx_log_bytes_total", "Bytes of output taken in", registry=self.registry)
        self.loop_lag = Histogram(
            "styx_event_loop_lag_seconds",
            "How late the event loop wakes up",
            buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0),
            registry=self.registry,
        )

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)


def configure_logging(log_format: str, level: str) -> None:
    """Sends structured log lines to stderr: one JSON object a line, or columns for people on a terminal."""
    people = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    render: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if people else structlog.processors.JSONRenderer()
    )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if not people:
        shared.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries that use the standard logging speak only when something is wrong.
    logging.basicConfig(level=logging.WARNING, handlers=[_Libraries()])


class _Libraries(logging.Handler):
    """Makes lines of ours of what libraries say: who reads the log reads one format."""

    def emit(self, record: logging.LogRecord) -> None:
        """Passes it on."""
        log = structlog.get_logger()
        said = {"library": record.name, "text": record.getMessage(), "exc_info": record.exc_info}
        if record.levelno >= logging.ERROR:
            log.error("library_failed", **said)
        else:
            log.warning("library_warned", **said)
