"""What the programs beside this one share; it is none itself."""

import statistics

import torch


def spread(values: list[float], style: str) -> str:
    """The median with the least and the largest."""
    return f"{statistics.median(values):{style}} ({min(values):{style}} to {max(values):{style}})"


def quartiles(values: list[float], style: str) -> str:
    """The median with the first and the third quartile."""
    low, median, high = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    )
    return f"{median:{style}} ({low:{style}} to {high:{style}})"


def synchronise() -> None:
    """Wait until the GPU, where there is one, has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
