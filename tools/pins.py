"""Writes constraints.txt: the newest versions that fit, for every platform. No package index is named in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = Path(sys.executable).parent / "uv"
HEADER = "# The versions that Styx is developed and tested with. `make pins` writes this file.\n"


def main() -> None:
    """Resolves pyproject.toml anew."""
    quiet = ["--no-header", "--no-emit-index-url", "--no-annotate", "--quiet"]
    resolve = [str(UV), "pip", "compile", "pyproject.toml", "--extra", "dev", "--universal", "--upgrade", *quiet]
    pins = subprocess.run(resolve, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    said = subprocess.run([str(UV), "--version"], check=True, capture_output=True, text=True).stdout
    version = re.search(r"\d+\.\d+\.\d+", said)
    if version is None:
        raise SystemExit(f"uv does not say its version: {said!r}")
    (ROOT / "constraints.txt").write_text(f"{HEADER}{pins}uv=={version[0]}\n")


if __name__ == "__main__":
    main()
