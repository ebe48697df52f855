"""Speed of a training step on this machine: channels last against contiguous, in one run, alternating.

Run: xceptlab bench train_step. Prints the ratio of images per second with its spread.
"""

import statistics
import time

import torch
from torch.nn import functional as F

from xceptlab.models.xception import Xception
from xceptlab.schema import ModelConfig

ROUNDS, STEPS, BATCH = 10, 5, 64


def main() -> None:
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = ModelConfig(width=0.125, middle_blocks=4, stem="cifar", bn_momentum=0.1)
    formats = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
    speed: dict[str, list[float]] = {name: [] for name in formats}
    networks = {name: Xception(config, 10).to(device, memory_format=layout) for name, layout in formats.items()}
    labels = torch.randint(0, 10, (BATCH,), device=device)
    for _ in range(ROUNDS + 1):
        for name, layout in formats.items():
            images = torch.randn(BATCH, 3, 16, 16, device=device).to(memory_format=layout)
            start = time.perf_counter()
            for _ in range(STEPS):
                F.cross_entropy(networks[name](images), labels).backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            speed[name].append(STEPS * BATCH / (time.perf_counter() - start))
    speed = {name: rounds[1:] for name, rounds in speed.items()}  # the first round warms up
    for name, rounds in speed.items():
        print(f"{name:>13}: {statistics.median(rounds):,.0f} images/s (median of {ROUNDS} rounds)")
    ratios = sorted(b / a for a, b in zip(*speed.values(), strict=True))
    print(f"channels last / contiguous: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
