"""What the programs beside this one share; it is none itself."""

import statistics

import torch


def spread(values: list[float], style: str) -> str:
    """The median with the least and the largest."""
    return f"{statistics.median(values):{style}} ({min(values):{style}} to {max(values):{style}})"


def synchronise() -> None:
    """Wait until the GPU, where there is one, has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
