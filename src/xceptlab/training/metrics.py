"""The functions that compute the metrics of ``runs/metrics.py``, by the metrics' names.

An evaluation reports the mean of a metric over all images. So each metric is a function that
returns one value for each image.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from xceptlab import register
from xceptlab.errors import Refused
from xceptlab.runs.metrics import METRICS


def among_best(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return for each image (B,) whether its label is among its k highest logits, k at most 5.

    Args:
        logits: (B, classes).
        labels: (B,).
        k: Number of highest logits among which the label counts as right.
    """
    # Rank the same number of classes for every k: topk may order equal logits otherwise for another
    # number, and then an image could be right in top-1 and wrong in top-5.
    most = min(5, logits.shape[1])
    ranked = logits.topk(most).indices  # (B, most)
    return (ranked[:, :k] == labels[:, None]).any(1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of each image (B,) in nats, from logits (B, classes) and labels (B,)."""
    return F.cross_entropy(logits, labels, reduction="none")


PER_IMAGE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "top1": partial(among_best, k=1),
    "top5": partial(among_best, k=5),
    "loss": cross_entropy,
}
"""The built-in metrics: by name a function of logits (B, classes) and labels (B,) that returns a
value for each image (B,); for accuracies whether the answer is right.
"""

SHARE_ROUNDING = 0.01
"""How far the magnitude of a share may exceed 1 by rounding, as sums of 16-bit probabilities do."""

ACCURACIES = tuple(name for name, metric in METRICS.items() if metric.is_accuracy)
"""Names of the built-in metrics whose value for an image is 0 or 1."""


def per_image(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the value of a built-in or registered metric for each image, (B,).

    Args:
        name: The metric.
        logits: (B, classes).
        labels: (B,).

    Raises:
        Refused: No metric has this name; or a registered one raises an error, or gives no tensor,
            another shape, a value that is not finite though all logits are, or with the unit ``%``
            a value whose magnitude is above 1.
    """
    if name in PER_IMAGE:
        return PER_IMAGE[name](logits, labels)
    entry = register.entry("metric", name)
    values = entry.call(logits, labels)
    if not isinstance(values, Tensor):
        raise entry.refusal(values, "a tensor (B,) of a value for each image")
    # True and false, for example, are 1 and 0.
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    if values.shape != labels.shape:
        raise Refused(
            f"metric {name!r}: gives values of shape {tuple(values.shape)} for {len(labels)} images; it must give one for each"
        )
    if logits.isfinite().all() and not values.isfinite().all():
        raise Refused(f"metric {name!r}: gives a value that is not finite for logits that are")
    if entry.about["unit"] == "%" and (values.abs() > 1 + SHARE_ROUNDING).any():
        largest = float(values.abs().max())
        raise Refused(
            f"metric {name!r}: gives {largest:g} for an image; with the unit % it must give shares of 1, at most 1"
        )
    return values
