"""A training run that can be interrupted at any time: finds a line through points, one step after the other.

What makes it fit for spot machines is all in `main`: it goes on from the last checkpoint, and SIGTERM makes it write
one and leave. The rest stands for your own training. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

STOPPED = 75
"""Exit code of a run that is not done; any but 0 will do, so that nobody takes it for a finished one."""


def main() -> None:
    """Trains until the last step, or until it is told to stop."""
    wanted = arguments()
    stopping = Stopping()
    model = load(wanted.checkpoints)
    print(f"attempt {os.environ.get('STYX_ATTEMPT', '1')} begins behind step {model['step']}", flush=True)
    while model["step"] < wanted.steps and not stopping.told:
        train(model, wanted.seconds)
        print(f"step {model['step']} slope {model['slope']:.4f} offset {model['offset']:.4f}", flush=True)
        # Every now and then as well: a machine can also go without a word.
        if model["step"] % wanted.save_every == 0:
            save(wanted.checkpoints, model)
    save(wanted.checkpoints, model)
    if model["step"] < wanted.steps:
        print(f"told to stop; saved at step {model['step']}", flush=True)
        sys.exit(STOPPED)
    print("done", flush=True)


class Stopping:
    """Remembers SIGTERM. The handler does nothing else, so the step that is under way ends as always."""

    def __init__(self) -> None:
        self.told = False
        signal.signal(signal.SIGTERM, self._tell)

    def _tell(self, _number: int, _frame: object) -> None:
        self.told = True


def load(folder: Path) -> dict[str, float]:
    """The last checkpoint, or the beginning."""
    try:
        model: dict[str, float] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"step": 0, "slope": 0.0, "offset": 0.0}
    return model


def save(folder: Path, model: dict[str, float]) -> None:
    """Writes a checkpoint: the whole of it, or nothing, whatever happens meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "model.new").open("w", encoding="utf-8") as file:
        json.dump(model, file)
        file.flush()
        os.fsync(file.fileno())
    (folder / "model.new").replace(folder / "model.json")


def train(model: dict[str, float], seconds: float) -> None:
    """One step of stochastic gradient descent towards y = 3x - 1."""
    # Its dice hang on the step alone: a run that was interrupted comes to the same end as one that was not.
    dice = random.Random(model["step"])
    for _ in range(16):
        x = dice.uniform(-1, 1)
        error = model["slope"] * x + model["offset"] - (3 * x - 1 + dice.gauss(0, 0.01))
        model["slope"] -= 0.05 * error * x
        model["offset"] -= 0.05 * error
    model["step"] += 1
    time.sleep(seconds)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=Path, required=True, help="a folder that outlives the machine")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=0.1, help="how long a step takes")
    parser.add_argument("--save-every", type=int, default=50, help="steps between two checkpoints")
    return parser.parse_args()


if __name__ == "__main__":
    main()
