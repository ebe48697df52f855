"""The LightningModule: steps and metrics, nothing else."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from xceptlab import optim
from xceptlab.data.module import Batch
from xceptlab.data.order import bits
from xceptlab.schema import RunConfig

_DROPOUT = 4  # first word of the key of dropout's seeds


class Task(pl.LightningModule):
    """Image classification with cross-entropy.

    ``test_correct`` holds, after a test, one 0 or 1 per test image.

    Args:
        config: The run.
        network: Images (N, 3, H, W) to logits (N, classes).
        steps_per_epoch: Optimizer steps of an epoch.
        test_images: Images of the test split.
    """

    def __init__(self, config: RunConfig, network: nn.Module, steps_per_epoch: int, test_images: int) -> None:
        super().__init__()
        self.config, self.network, self.steps_per_epoch = config, network, steps_per_epoch
        self.val_metrics, self.test_metrics = _metrics(config, "val/"), _metrics(config, "test/")
        self.per_image = PerImage(test_images)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Dropout depends on (seed, batch, rank) only, so that an interrupted run continues with the same draws."""
        number = self.current_epoch * self.steps_per_epoch * self.config.train.accumulate + batch_idx
        torch.manual_seed(int(bits(_DROPOUT, self.config.seed, number, self.global_rank)[0] >> 1))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        logits = self.network(batch.images)
        smoothing = self.config.train.label_smoothing
        loss = F.cross_entropy(logits, batch.labels, reduction="sum", label_smoothing=smoothing) * batch.weight
        correct = (logits.detach().argmax(1) == batch.labels).sum() * batch.weight
        return {"loss": loss, "top1": 100 * correct}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, self.val_metrics)

    def on_validation_epoch_end(self) -> None:
        self._report(self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        logits = self._evaluate(batch, self.test_metrics)
        self.per_image.update(batch.number, logits.argmax(1) == batch.labels)

    def on_test_epoch_end(self) -> None:
        self._report(self.test_metrics)
        self.test_correct = self.per_image.compute()

    def _evaluate(self, batch: Batch, metrics: MetricCollection) -> Tensor:
        logits = self.network(batch.images).float()
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        for name, metric in metrics.items(keep_base=True):
            arguments = (losses,) if name == "loss" else (logits, batch.labels)
            metric.update(*arguments)
        return logits

    def _report(self, metrics: MetricCollection) -> None:
        """Accuracies in percent, the loss in nats; summed over all processes by the metrics themselves."""
        values = {name: value if name.endswith("loss") else 100 * value for name, value in metrics.compute().items()}
        self.log_dict(values, logger=False, prog_bar=True)
        metrics.reset()

    def configure_optimizers(self) -> Any:
        optimizer = optim.optimizer(self.network, self.config.train)
        schedule = optim.schedule(optimizer, self.config.train, self.steps_per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _metrics(config: RunConfig, prefix: str) -> MetricCollection:
    classes = config.data.classes

    def accuracy(k: int) -> MulticlassAccuracy:
        return MulticlassAccuracy(classes, top_k=min(k, classes), average="micro", validate_args=False)

    return MetricCollection({"top1": accuracy(1), "top5": accuracy(5), "loss": MeanMetric()}, prefix=prefix, compute_groups=False)


class PerImage(Metric):
    """For each of n images whether top-1 was right: (n,) of 0 and 1, the same on every process after ``compute``."""

    full_state_update = False

    def __init__(self, n: int) -> None:
        super().__init__()
        self.correct: Tensor
        self.add_state("correct", torch.zeros(n, dtype=torch.uint8), dist_reduce_fx="sum")

    def update(self, index: Tensor, correct: Tensor) -> None:
        self.correct[index] = correct.to(torch.uint8)

    def compute(self) -> Tensor:
        return self.correct
