"""A server on a copy of a database must not end the machines of the original."""

from __future__ import annotations

from pathlib import Path

import pytest

from styx_server.services.machines.belonging import NotOurs, claim_deployment

OURS, OTHER = "11111111-0000-0000-0000-000000000000", "22222222-0000-0000-0000-000000000000"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "deployment.id"


def test_the_first_server_remembers_which_deployment_it_rents_for(file: Path) -> None:
    claim_deployment(OURS, rented=False, said="", file=file)
    assert file.read_text() == OURS + "\n"
    claim_deployment(OURS, rented=True, said="", file=file)


def test_another_database_in_the_same_folder_is_refused(file: Path) -> None:
    claim_deployment(OURS, rented=False, said="", file=file)
    with pytest.raises(NotOurs, match="is meant for deployment 1111"):
        claim_deployment(OTHER, rented=False, said="", file=file)
    claim_deployment(OTHER, rented=False, said=OTHER, file=file)
    assert file.read_text() == OTHER + "\n"


def test_a_fresh_folder_and_a_database_that_has_rented_need_a_word(file: Path) -> None:
    with pytest.raises(NotOurs, match="--deployment-id 1111"):
        claim_deployment(OURS, rented=True, said="", file=file)
    with pytest.raises(NotOurs):
        claim_deployment(OURS, rented=True, said=OTHER, file=file)
    assert not file.exists()
    claim_deployment(OURS, rented=True, said=OURS, file=file)
    claim_deployment(OURS, rented=True, said="", file=file)
