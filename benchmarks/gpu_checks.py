"""What must hold on a GPU, checked where there is one. Prints a table; exit code 1 if something does not hold.

Run: PYTHONPATH=src python benchmarks/gpu_checks.py [WORD], which runs the checks with this word in their name.
"""

import random
import signal
import sys
from pathlib import Path

import torch
from endurance import EPOCHS, STEPS_PER_EPOCH, Check, Counts, Run, show, undisturbed


def continuation(folder: Path, full: bool) -> Counts:
    """Killed in mid-epoch, in two precisions, with deterministic algorithms (the default)."""
    held = 0
    precisions = ("32-true", "bf16-mixed")
    for precision in precisions:
        gpu = (
            *("--runtime.accelerator=gpu", f"--train.precision={precision}", "--runtime.workers=2"),
            *("--model.width=0.25", "--model.middle_blocks=2", "--data.size=32", "--data.pad=4"),
        )
        expected = undisturbed(folder / precision, 1, *gpu)
        run = Run(folder / precision / "run", gpu).start()
        run.wait_for_step(STEPS_PER_EPOCH * random.randrange(EPOCHS - 1) + random.randrange(4, STEPS_PER_EPOCH))
        run.signal(signal.SIGKILL)
        run.wait()
        interrupted = run.result() is None
        run.start().wait()
        held += interrupted and run.result() == expected
    return Counts(held, len(precisions), torch.cuda.get_device_name())


CHECKS = [
    Check("kill -9 in mid-epoch x {32-true, bf16-mixed}", "losses, images, weights equal to undisturbed", continuation),
]


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("gpu_checks: there is no GPU here")
    word = sys.argv[1].lower() if len(sys.argv) > 1 else ""
    sys.exit(not show([one for one in CHECKS if word in one.name.lower()], full=True))
