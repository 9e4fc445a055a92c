"""Checks the generated wire code: it is what protos/ says today, and it imports without the rest of Styx.

Part of `make check`. The code itself comes from `gen_protos.py`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tools.gen_protos import ROOT, generate


def stale(fresh: Path, tree: Path) -> list[str]:
    """Generated files in `tree` that differ from those in `fresh`, or are missing."""
    files = [path.relative_to(fresh) for path in fresh.rglob("*_pb2*") if path.suffix in (".py", ".pyi")]
    return sorted(str(file) for file in files if _read(fresh / file) != _read(tree / file))


def import_all(place: Path) -> None:
    """Imports every generated module below `place`, with nothing else of Styx in reach.

    Raises:
        subprocess.CalledProcessError: one cannot be imported; the reason is on stderr.
    """
    modules = [".".join(path.relative_to(place).with_suffix("").parts) for path in place.rglob("*_pb2*.py")]
    program = (
        "import importlib, sys; sys.path.insert(0, sys.argv[1]); [importlib.import_module(m) for m in sys.argv[2:]]"
    )
    # -P: the working directory stays off the path. No package has an __init__ there, so the tree's own is shadowed.
    subprocess.run([sys.executable, "-P", "-W", "error", "-c", program, str(place), *sorted(modules)], check=True)


def main() -> None:
    """Ends with an error when the code in the tree is not what it should be."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        for package in ("styx", "styx/v1", "styx/agent", "styx/agent/v1"):
            (fresh / package).mkdir(exist_ok=True)
            (fresh / package / "__init__.py").touch()
        generate(fresh)
        import_all(fresh)
        if old := stale(fresh, ROOT):
            raise SystemExit(f"run `make protos`; these are not what protos/ says: {', '.join(old)}")
    print("generated code: as protos/ says")


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


if __name__ == "__main__":
    main()
