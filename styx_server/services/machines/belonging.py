"""Whether this server may rent for the deployment whose database it has: a copy must not end the original's machines.

Only about machines that other servers can see too: those of this computer belong to a data folder anyway.
"""

from __future__ import annotations

from pathlib import Path


class NotOurs(Exception):
    """This server may not rent from this database; the message says why and what to do."""


def claim_deployment(deployment_id: str, *, rented: bool, said: str, file: Path) -> None:
    """Makes sure that a database is the one that this server was meant for, and remembers it.

    Args:
        deployment_id: of the database.
        rented: whether machines were ever rented from it.
        said: which deployment the operator means; empty: not said.
        file: which one this server rented for last.

    Raises:
        NotOurs: the database may be a copy.
        OSError: the file cannot be read or written.
    """
    kept = file.read_text("utf-8").strip() if file.exists() else ""
    meant = said or kept
    if meant and meant != deployment_id:
        raise NotOurs(
            f"this server is meant for deployment {meant}, and the database says {deployment_id}: if the database is "
            "a copy, start without --providers, or it would end the machines of the original; if it is the right one, "
            f"say --deployment-id {deployment_id}"
        )
    if rented and not meant:
        raise NotOurs(
            f"another server has rented machines from this database (deployment {deployment_id}): if this one belongs "
            f"to it, say --deployment-id {deployment_id}; if the database is a copy, start without --providers"
        )
    if kept != deployment_id:
        fresh = file.with_suffix(".new")
        fresh.write_text(f"{deployment_id}\n", "utf-8")
        fresh.rename(file)
