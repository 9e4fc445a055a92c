"""Generates the Python wire code from protos/ into the package `styx`.

Run by the build hook (`tools/hatch_build.py`) and by `make protos`. The proto package `styx.v1` and the Python
package `styx.v1` have the same name, so what protoc writes needs no rewriting. Generated files are never committed.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def generate(out: Path = ROOT) -> list[str]:
    """Writes `*_pb2.py`, `*_pb2.pyi` and `*_pb2_grpc.py` below `out`; returns the proto files that were read.

    Raises:
        SystemExit: protoc refused a file; its message is already on stderr.
    """
    from grpc_tools import protoc

    protos = ROOT / "protos"
    names = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    includes = [protos, files("grpc_tools") / "_proto"]
    flags = [f"-I{path}" for path in includes]
    flags += [f"--{kind}={out}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    if protoc.main(["protoc", *flags, *names]):
        raise SystemExit("protoc failed; the error is above")
    return names


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
