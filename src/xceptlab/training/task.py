"""The LightningModule of a run: its training and evaluation steps, and its metrics."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torchmetrics import Metric, MetricCollection, SumMetric

from xceptlab.config.schema import RunConfig
from xceptlab.data.augment import partners
from xceptlab.data.module import Batch
from xceptlab.data.order import bits
from xceptlab.errors import Refused
from xceptlab.runs.metrics import measured
from xceptlab.text import counted, say
from xceptlab.training import capture, optim
from xceptlab.training.metrics import ACCURACIES, per_image

_DROPOUT = 4
"""First word of the key from which dropout's seeds are drawn. ``data.order`` has the first words of
other kinds of draws, which differ, so that no two kinds draw the same numbers.
"""


class Task(pl.LightningModule):
    """Image classification with cross-entropy: what Lightning's Trainer trains and evaluates.

    ``evaluation`` holds the latest scores by name (``val/top1``), each in its metric's unit. After
    a test ``test_values`` holds, by the metric's name, the values (n,) of the n test images: 0 or 1
    of an accuracy, nats of the loss, of a registered metric what its function gives.
    ``first_test_images`` is then the first batch of this process, (B, 3, size, size).

    Args:
        config: The run.
        network: Maps images (N, 3, H, W) to logits (N, classes).
        steps_per_epoch: Number of optimizer steps in an epoch.
        test_images: Number of images in the test split.
    """

    def __init__(
        self, config: RunConfig, network: nn.Module, steps_per_epoch: int, test_images: int
    ) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.steps_per_epoch = steps_per_epoch
        # Sums over a whole split need 64 bits to be precise, which Apple's GPUs do not have.
        exact = torch.float32 if torch.backends.mps.is_available() else torch.float64
        self._metrics = measured(config.data.classes, config.train.metrics)
        names = ["images", *(metric.name for metric in self._metrics)]
        # Propagate NaN, so that divergence is noticed.
        sums = {name: SumMetric(nan_strategy="disable").set_dtype(exact) for name in names}
        self.sums = MetricCollection(sums, compute_groups=False)  # type: ignore[arg-type]
        self.evaluation: dict[str, float] = {}
        types = {
            metric.name: torch.uint8 if metric.name in ACCURACIES else torch.float32
            for metric in self._metrics
        }
        self.per_image = PerImage(types, test_images)
        self._recorder: capture.Recorder | None = None
        self._step: capture.CapturedStep | None = None
        self._inference: capture.Captured | None = None
        self._has_gradients = False

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint is of this network; an older version may have written another.

        Raises:
            Refused: Names or shapes of the weights differ.
        """
        found = {name: value.shape for name, value in checkpoint["state_dict"].items()}
        wanted = {name: value.shape for name, value in self.state_dict().items()}
        if found != wanted:
            wrong = min(
                name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)
            )
            raise Refused(
                f"the checkpoint to continue from is of another version: {wrong} differs; remove it to start the run again"
            )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the device's random generator, from which dropout draws, by nothing but the run's
        seed, the number of the batch in the training and the process's rank. So an interrupted run
        continues with the same draws.
        """
        number = (
            self.current_epoch * self.steps_per_epoch * self.config.train.accumulate + batch_idx
        )
        seed = int(bits(_DROPOUT, self.config.seed, number, self.global_rank)[0] >> 1)
        # Seed this device only: torch.manual_seed would ask for every kind of device that might be
        # there, and take a millisecond.
        generator = (
            torch.default_generator
            if self.device.type == "cpu"
            else torch.get_device_module(self.device)
        )
        generator.manual_seed(seed)

    def on_train_start(self) -> None:
        recorder = self._shared_recorder()
        if recorder and capture.steps_are_capturable(self.trainer, self.config):
            self._step = capture.CapturedStep(
                self._outputs, self.network, recorder, self.config.train.accumulate
            )

    def on_validation_start(self) -> None:
        recorder = self._shared_recorder()
        # Like a training step (see steps_are_capturable), an evaluation is not captured with
        # callbacks, which may change what it computes.
        if recorder and not self._inference and not self.config.train.callbacks:
            self._inference = capture.Captured(self._logits, self.network, recorder)

    def on_test_start(self) -> None:
        self.on_validation_start()

    def teardown(self, stage: str) -> None:
        """Forget the captured CUDA graphs: they hold the weights' addresses on the device, and the
        Trainer is about to move the weights off it.
        """
        self._recorder = self._step = self._inference = None

    def _shared_recorder(self) -> capture.Recorder | None:
        """Return the recorder that captures this run's work as CUDA graphs; None where nothing is
        captured. It is one for all graphs, so that they share their memory.
        """
        self._recorder = self._recorder or capture.recorder(self.trainer, self.config)
        return self._recorder

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Compute ``loss`` and ``top1`` (percent) of a batch, so weighted that the averages over
        processes and accumulated batches are means over the global batch.

        If there is a captured CUDA graph, it is replayed, and computes the gradients, too.
        """
        first_of_step = batch_idx % self.config.train.accumulate == 0
        replayed = self._step(batch, first_of_step) if self._step else None
        self._has_gradients = replayed is not None
        return replayed or self._outputs(batch)

    def _outputs(self, batch: Batch) -> dict[str, Tensor]:
        """Compute loss and top-1 (percent), summed over a batch's images and multiplied by
        ``Batch.weight``. Averaged over processes and accumulated batches, both are means over the
        global batch.
        """
        logits = self.network(batch.images)
        loss = self._loss(logits, batch) * batch.weight
        # Take argmax, which is faster than the topk of evaluations (metrics.among_best). The two
        # may differ where logits are equal.
        correct = (logits.detach().argmax(1) == batch.labels).sum() * batch.weight
        return {"loss": loss, "top1": 100 * correct}

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Run Lightning's backward pass, unless a replayed CUDA graph has computed this batch's
        gradients already.
        """
        if not self._has_gradients:
            super().backward(loss, *args, **kwargs)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Drop the last step's gradients, unless a replayed CUDA graph has put this batch's
        gradients in their place already.
        """
        if not self._has_gradients:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sum the cross-entropy over a batch, in nats. An image that is mixed with another one (its
        ``augment.partners``) counts for both labels, by their shares.

        Args:
            logits: (B, classes).
            batch: The batch of the logits.
        """
        smoothing = self.config.train.label_smoothing
        if batch.label_weight is None:
            return F.cross_entropy(logits, batch.labels, reduction="sum", label_smoothing=smoothing)
        partners_labels = batch.labels[partners(len(logits), logits.device)]
        loss = F.cross_entropy(logits, batch.labels, reduction="none", label_smoothing=smoothing)
        partners_loss = F.cross_entropy(
            logits, partners_labels, reduction="none", label_smoothing=smoothing
        )
        return (batch.label_weight * loss + (1 - batch.label_weight) * partners_loss).sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0:
            self.first_test_images = batch.images
        self.per_image.update(batch.number, self._evaluate(batch))

    def on_test_epoch_end(self) -> None:
        self._report("test")
        self.test_values = {name: values.cpu() for name, values in self.per_image.compute().items()}

    def _logits(self, batch: Batch) -> dict[str, Tensor]:
        """Return the logits (B, classes) of a batch under the name ``logits``."""
        return {"logits": self.network(batch.images)}

    def _evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Evaluate a batch and add its images to the sums over the split.

        Returns:
            For each metric, by name, the values (B,) of the images.
        """
        replayed = self._inference(batch) if self._inference else None
        logits = (replayed or self._logits(batch))["logits"].float()
        values = {
            metric.name: per_image(metric.name, logits, batch.labels) for metric in self._metrics
        }
        self.sums["images"].update(torch.ones_like(batch.labels))
        for name, value in values.items():
            self.sums[name].update(value)
        return values

    def _report(self, split: str) -> None:
        """Log the mean of every metric over a split's images, in the metric's unit, to the progress
        bar and Lightning's metrics, keep it in ``evaluation``, and begin the next sums. The mean is
        over the images of all processes, which add up sums and numbers of images only.

        Args:
            split: ``val`` or ``test``, with which the scores' names begin.
        """
        totals = {name: float(total) for name, total in self.sums.compute().items()}
        values = {}
        for metric in self._metrics:
            scale = 100.0 if metric.in_percent else 1.0
            values[f"{split}/{metric.name}"] = scale * totals[metric.name] / totals["images"]
        self.evaluation |= values
        self.log_dict(values, logger=False, prog_bar=True, rank_zero_only=True)
        self.sums.reset()

    def configure_optimizers(self) -> Any:
        optimizer = optim.optimizer(self.network, self.config.train)
        left_out = optim.left_out(optimizer, self.network)
        if left_out and self.trainer.is_global_zero:
            count = counted(len(left_out), "parameter")
            say(
                f"train.optimizer: {self.config.train.optimizer} has not been given {count} of the network, which stay as they "
                f"are, such as {left_out[0]}",
                "Warning",
            )
        schedule = optim.schedule(optimizer, self.config.train, self.steps_per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class PerImage(Metric):
    """Gathers the value of each of n images for some metrics. Each process adds its own images;
    after ``compute`` all have the values of all.

    Args:
        types: The type of the values, by the metric's name.
        n: Number of images.
    """

    full_state_update = False

    def __init__(self, types: dict[str, torch.dtype], n: int) -> None:
        super().__init__()
        self.types = types
        for name, kind in types.items():
            self.add_state(name, torch.zeros(n, dtype=kind), dist_reduce_fx="sum")

    def update(self, index: Tensor, values: dict[str, Tensor]) -> None:
        """Add values (B,), by the metric's name, of the images with the numbers ``index`` (B,)."""
        for name, kind in self.types.items():
            getattr(self, name)[index] = values[name].to(kind)

    def compute(self) -> dict[str, Tensor]:
        """Return the values (n,) of all images, by the metric's name."""
        return {name: getattr(self, name) for name in self.types}
