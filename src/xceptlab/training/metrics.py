"""The functions that compute the metrics of ``runs/metrics.py``, by the metrics' names.

An evaluation reports the mean of a metric over all images, so that each is a function that gives
one value an image.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from xceptlab import register
from xceptlab.errors import Refused
from xceptlab.runs.metrics import METRICS


def among_best(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether each image's label is among its k highest logits, (B,): logits (B, classes), labels
    (B,).
    """
    # of which the first are taken, so that equal logits are ranked alike for every k
    most = min(5, logits.shape[1])
    ranked = logits.topk(most).indices  # (B, most)
    return (ranked[:, :k] == labels[:, None]).any(1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Each image's loss in nats, (B,): logits (B, classes), labels (B,)."""
    return F.cross_entropy(logits, labels, reduction="none")


PER_IMAGE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "top1": partial(among_best, k=1),
    "top5": partial(among_best, k=5),
    "loss": cross_entropy,
}
"""Function of logits (B, classes) and labels (B,) that gives a value for each image (B,), by
metric; 0 or 1 for accuracies.
"""

ACCURACIES = tuple(name for name, metric in METRICS.items() if metric.in_percent)
"""The built-in metrics whose value for an image is 0 or 1; a registered one in percent may have
values between.
"""


def per_image(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """A built-in or registered metric's value for each image, (B,): logits (B, classes), labels
    (B,).

    Raises:
        Refused: A registered metric gives something else.
    """
    if name in PER_IMAGE:
        return PER_IMAGE[name](logits, labels)
    entry = register.entry("metric", name)
    values = entry.make(logits, labels)
    if not isinstance(values, Tensor):
        raise entry.refusal(values, "a tensor (B,) of a value for each image")
    if values.shape != labels.shape:
        raise Refused(
            f"metric {name!r}: gives values of shape {tuple(values.shape)} for {len(labels)} images; it must give one for each"
        )
    if logits.isfinite().all() and not values.isfinite().all():
        raise Refused(f"metric {name!r}: gives a value that is not finite for logits that are")
    return values
