"""What `styx up` reads and holds before it starts anything."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from styx_cli.local.plan import ServerSettings, UpOptions, check_config_argv, read_settings
from styx_cli.local.ports import HeldPorts, is_free


def settings_with(folder: Path, options: UpOptions, **env: str) -> ServerSettings:
    """What a server says of its settings."""
    argv = check_config_argv(folder, options)
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), **env}
    return read_settings(subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout)


def test_without_a_word_a_server_has_its_defaults(tmp_path: Path) -> None:
    assert settings_with(tmp_path, UpOptions()) == ServerSettings(
        host="127.0.0.1", grpc_port=50051, http_port=8080, tls=False, has_database=False
    )


def test_flags_environment_and_file_count_as_for_the_server(tmp_path: Path) -> None:
    file = tmp_path / "a server.toml"
    cert = tmp_path / ("long-" * 20) / "cert with blanks.pem"
    file.write_text(f'host = "::"\ntls_cert = "{cert}"\ntls_key = "k.pem"\nhttp_port = 7\n')
    url = "postgresql://me@example.com/styx"
    found = settings_with(tmp_path, UpOptions(grpc_port=0), STYX_CONFIG=str(file), STYX_DATABASE_URL=url)
    assert found == ServerSettings(host="::", grpc_port=0, http_port=7, tls=True, has_database=True)


@pytest.mark.parametrize(
    ("host", "tls", "url"),
    [
        ("127.0.0.1", False, "http://127.0.0.1:80"),
        ("0.0.0.0", False, "http://127.0.0.1:80"),
        ("::", True, "https://[::1]:80"),
        ("styx.example.com", True, "https://styx.example.com:80"),
    ],
)
def test_an_address_is_one_that_can_be_dialled(host: str, tls: bool, url: str) -> None:
    seen = ServerSettings(host=host, grpc_port=0, http_port=0, tls=tls, has_database=False)
    assert seen.url(80) == url


def test_a_held_port_is_nobody_elses_and_a_server_of_ours_may_listen_there_again_and_again() -> None:
    held = HeldPorts()
    port = held.hold("127.0.0.1")
    try:
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))
        for _ in range(2):
            with socket.create_server(("127.0.0.1", port)):
                assert not is_free("127.0.0.1", port)
                with pytest.raises(OSError, match="in use"):
                    held.hold("127.0.0.1", port)
    finally:
        held.release()
    with socket.socket() as anybody:
        anybody.bind(("127.0.0.1", port))
