"""Under which identity PostgreSQL's programs run. They refuse root, and they look their user up by number.

- An ordinary user with a name runs them as itself.
- Root, or a user without a name, runs them in a user namespace that shows it as somebody else: no user is made, no
  folder is opened up, and files keep belonging to who started Styx.
- Where namespaces are refused, as in most containers, root hands the folder to an existing user and runs them as that
  one; with the right to pass through root's own folders when it could not reach the place otherwise.

Each way is tried before it is chosen. This file starts programs, but never PostgreSQL's server. Next: `launch.py`.
"""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path

from styx_server.embedded.binaries import Binaries
from styx_server.embedded.errors import INSTEAD, NoUsableIdentity
from styx_server.embedded.launch import Identity, run

_SYSTEM_USERS = ("postgres", "nobody")
# Enters and checks the folder, and lets initdb find its user and its fellow programs, which makes nothing.
_PROBE = 'cd "$1" && test -w . && exec "$2" --show -D "$1/probe" --username=styx'


async def choose_identity(folder: Path, binaries: Binaries) -> Identity:
    """The first identity that can use both `folder` and `binaries`; the folder then belongs to it.

    Raises:
        NoUsableIdentity: there is none.
    """
    tried: list[str] = []
    for identity in _candidates(folder, binaries):
        refusal = await _refusal(identity, folder, binaries)
        if refusal is None:
            _give_all(folder, identity)
            return identity
        tried.append(f"{identity.words}: {refusal}")
    if os.geteuid() == 0:
        os.chown(folder, 0, 0)
    me = "root" if os.geteuid() == 0 else f"user number {os.geteuid()}, which has no name"
    raise NoUsableIdentity(
        f"PostgreSQL refuses to run as {me}, and nothing else worked for {folder} "
        f"({'; '.join(tried) or 'no other user exists'}). Start Styx as an ordinary user, {INSTEAD}."
    )


async def _refusal(identity: Identity, folder: Path, binaries: Binaries) -> str | None:
    """Why `identity` cannot be used, or None when it can."""
    try:
        _give(folder, identity)
    except OSError as error:
        return f"{folder} cannot be given to it: {error.strerror}"
    probe = ["/bin/sh", "-c", _PROBE, "sh", str(folder), binaries.initdb]
    code, output = await run(probe, identity)
    said = output.strip().splitlines() or [f"exit code {code}"]
    return said[0] if code != 0 else None


def _candidates(folder: Path, binaries: Binaries) -> Iterator[Identity]:
    me = (os.geteuid(), os.getegid())
    if me[0] != 0 and _has_name(me[0]):
        yield Identity(words="this user", owner=me)
        return
    unshare = shutil.which("unshare")
    shown_as = _somebody()
    if unshare is not None and shown_as is not None:
        maps = (f"--map-user={shown_as.pw_uid}", f"--map-group={shown_as.pw_gid}")
        yield Identity(words="user namespace", prefix=(unshare, "--user", *maps, "--"), owner=me)
    if me[0] == 0:
        stand_ins = _stand_ins(folder, binaries)
        yield from (_become(entry, rights=()) for entry in stand_ins)
        yield from (_become(entry, rights=("dac_override",)) for entry in stand_ins)


def _become(entry: pwd.struct_passwd, *, rights: tuple[str, ...]) -> Identity:
    setpriv = shutil.which("setpriv") or "setpriv"
    prefix = [setpriv, f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    granted = ",".join(f"+{right}" for right in rights)
    if granted:
        # The last flag makes access(2), with which PostgreSQL looks at its own programs, count the right too.
        prefix += [f"--inh-caps={granted}", f"--ambient-caps={granted}", "--securebits=+no_setuid_fixup"]
    words = f"user {entry.pw_name}{f' with {granted}' if granted else ''}"
    return Identity(words=words, prefix=(*prefix, "--"), owner=(entry.pw_uid, entry.pw_gid))


def _stand_ins(folder: Path, binaries: Binaries) -> list[pwd.struct_passwd]:
    """Users that root could switch to: those that are meant for it, then those whose home this is."""
    by_name = [_entry(name) for name in _SYSTEM_USERS]
    by_place = [_entry(path.stat().st_uid) for path in (folder.parent, binaries.folder)]
    found = {entry.pw_uid: entry for entry in [*by_name, *by_place] if entry is not None and entry.pw_uid != 0}
    return list(found.values())


def _somebody() -> pwd.struct_passwd | None:
    known = [_entry(name) for name in _SYSTEM_USERS]
    return next((entry for entry in [*known, *pwd.getpwall()] if entry is not None and entry.pw_uid != 0), None)


def _entry(who: str | int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(who) if isinstance(who, str) else pwd.getpwuid(who)
    except KeyError:
        return None


def _has_name(uid: int) -> bool:
    return _entry(uid) is not None


def _give(path: Path, identity: Identity) -> None:
    status = path.lstat()
    if os.geteuid() == 0 and (status.st_uid, status.st_gid) != identity.owner:
        os.chown(path, *identity.owner, follow_symlinks=False)


def _give_all(folder: Path, identity: Identity) -> None:
    """A folder may have been used under another identity before; PostgreSQL insists on owning all of it."""
    if os.geteuid() != 0:
        return
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            _give(Path(place) / name, identity)
