"""One run: a configuration in, a record out. Read this file first: from top to bottom it is how a
run works.
"""

import dataclasses
import functools
import importlib.metadata
import io
import logging
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

import xceptlab
from xceptlab import register
from xceptlab.config.loading import dump_run
from xceptlab.config.schema import RunConfig
from xceptlab.data import identity, resolved
from xceptlab.data.module import DataModule
from xceptlab.errors import Refused
from xceptlab.files import write_atomically
from xceptlab.models import build as models
from xceptlab.models import pretrained
from xceptlab.models.cost import cost
from xceptlab.models.warm_start import WarmStart, warm_start
from xceptlab.runs.directory import RunDirectory, begun_on_other_files, outdated
from xceptlab.runs.log import final_metrics, throughput
from xceptlab.runs.metrics import metric_of
from xceptlab.runs.record import Record
from xceptlab.runs.world import World, count_cores
from xceptlab.signals import PARENT, StopSignals, die_with_parent
from xceptlab.text import counted, say
from xceptlab.training import checkpoints, lightning, saved_weights, tracking
from xceptlab.training.optim import AverageWeights
from xceptlab.training.parallel import Processes, SyncBatchNorm
from xceptlab.training.task import Task

QUIET = (
    "does not have many workers",
    "Our suggested max number of worker",
    "is smaller than the logging interval",
    "isinstance.treespec, LeafSpec",
    "Checkpoint directory .* exists and is not empty",
    "Total length of `list` across ranks is zero",  # no validation images
    # our metrics are summed over processes before they are logged
    "It is recommended to use `self.log",
    "your dataloader is not resumable",  # it begins where the run stands
    "The `srun` command is available",
)
"""Warnings that tell a user nothing, by a part of their text."""


def train(config: RunConfig, *, progress: bool = True, quiet: bool = False) -> Record:
    """Train, evaluate and record a run, or continue it where it stopped; a run that has its record
    is not trained again.

    Args:
        config: The run, as ``data.resolved`` gives it.
        progress: Show a progress bar; else there is a line an epoch.
        quiet: Show neither.

    Raises:
        Refused: The configuration does not fit the data, the devices or what is installed.
        Busy: Another process is training this run.
        Interrupted: A signal asked to stop; the same call continues.
        KeyboardInterrupt: The user did; the same call continues.
        OSError: Disk full, no permission.
    """
    directory = RunDirectory.of(config.runtime.outputs, config.run_id)
    record = directory.record_of_its_id()
    if record:
        _refuse_record_of_other_data(config, directory, record)
        directory.tidy()
        return record
    world = World.join(config.runtime)
    die_with_parent(world.starter == "torchrun")
    with StopSignals(explain=world.first) as stop_signals:
        git_state()  # of the code as it is loaded, not as it will be when the run ends
        prepare(config)
        data = DataModule(config)
        data.setup("fit")
        # refuses files that have changed; they may have come only now, with data.download
        resolved(config)
        network = build(config)
        start = warm_start(config.model, network)
        if start:
            network.load_state_dict(start.state)
        trainer = make_trainer(
            config, world, directory, stop_signals, progress=progress and not quiet, quiet=quiet
        )
        directory.create()
        if not world.first:  # only the first process keeps the directory
            return _train(config, directory, data, network, start, trainer, stop_signals)
        with directory.locked():
            record = directory.record()
            if record:  # the process that held the run until now has finished it
                return record
            write_atomically(directory.path / "config.yaml", dump_run(config).encode())
            record = _train(config, directory, data, network, start, trainer, stop_signals)
        # without the lease: W&B may take its time, and the run is done
        tracking.finish(trainer, record)
        return record


def _refuse_record_of_other_data(
    config: RunConfig, directory: RunDirectory, record: Record
) -> None:
    difference = identity.changed(config.data, record)
    if difference:
        raise Refused(
            f"{directory.path}: trained on other data: {difference}; put back what was there, or remove this folder to train "
            "the run again"
        )


def _train(
    config: RunConfig,
    directory: RunDirectory,
    data: DataModule,
    network: nn.Module,
    start: WarmStart | None,
    trainer: pl.Trainer,
    stop_signals: StopSignals,
) -> Record:
    """Train in a directory that is this run's alone; see ``train``."""
    started = time.time()
    parameters, macs = cost(config.model, config.data.classes, config.data.size)
    files = {"fingerprint": data.fingerprint(), "files": identity.files(config.data)}
    classes = list(identity.class_names(config.data))  # now, while the files are known to be there
    latest = checkpoints.newest(directory.path / "checkpoints")
    task = Task(config, network, data.steps_per_epoch, len(data.test))
    trainer.loggers = tracking.loggers(
        config, directory, step=checkpoints.steps_done(latest), first=trainer.is_global_zero
    )
    began_with = directory.began_with()
    if latest and began_with:
        _refuse_to_continue_on_other_data(config, directory, began_with, files)
    if trainer.is_global_zero:
        if began_with != files:
            directory.begin_with(files)
        announce(config, latest, start)
        for line in _remarks(config, classes, len(data.train), start, trainer.strategy.root_device):
            say(line, "Warning")

    metrics = _fit_and_test(task, data, directory, latest, trainer, stop_signals)
    if trainer.is_global_zero and metrics:
        check_curves(directory)
        planned = config.train.steps(len(data.train))
        if trainer.global_step < planned:
            say(
                f"{config.run_id}: made {trainer.global_step:,} of {planned:,} optimizer steps; a callback ended it or gathered "
                "batches",
                "Warning",
            )
    seconds, images_per_second = throughput(directory.log())
    record = Record(
        run_id=config.run_id,
        status="finished" if metrics else "diverged",
        science=config.science(),
        metrics=metrics,
        parameters=parameters,
        macs=macs,
        test_images=len(data.test),
        steps=trainer.global_step,
        seconds=seconds,
        images_per_second=images_per_second,
        device=device_name(trainer.strategy.root_device),
        arithmetic=arithmetic(trainer.strategy.root_device),
        world_size=trainer.world_size,
        precision=config.train.precision,
        data_fingerprint=files["fingerprint"],
        data_files=files["files"],
        classes=classes,
        versions=versions(),
        git=git_state(),
        started=min([started, *(line["time"] for line in directory.log())]),
        finished=time.time(),
        train_images=len(data.train),
        validation_images=len(data.validation),
        majority_class=data.majority_class(),
        host=socket.gethostname(),
        registrations=directory.registrations(),
        weights=start.source if start else "",
    )
    if trainer.is_global_zero:
        if metrics:
            _keep_evaluated(network, task, directory, trainer)
        directory.write_record(record)
        shutil.rmtree(directory.path / "checkpoints")
    return record


def _refuse_to_continue_on_other_data(
    config: RunConfig, directory: RunDirectory, began_with: dict[str, str], files: dict[str, str]
) -> None:
    if not identity.same(config.data, files["files"], lambda: files["fingerprint"], began_with):
        raise Refused(
            f"{directory.path}: the run began with other data than are in {config.data.root} now; put back what was there, or "
            "remove this folder to train the run anew"
        )


def _fit_and_test(
    task: Task,
    data: DataModule,
    directory: RunDirectory,
    latest: Path | None,
    trainer: pl.Trainer,
    stop_signals: StopSignals,
) -> dict[str, float]:
    """Train from the latest checkpoint to the last epoch, then evaluate; returns the final metrics,
    none if the run diverged.

    Raises:
        Refused: Lightning says that a registered callback cannot work in this run.
    """
    try:
        with lightning.keyboard_interrupt():
            with stop_signals.deferred():
                trainer.fit(task, datamodule=data, ckpt_path=latest, weights_only=True)
            trainer.test(task, datamodule=data, verbose=False)
        # the log knows what was evaluated before an interruption
        metrics = final_metrics(directory.log()) | task.evaluation
        if not np.isfinite(list(metrics.values())).all():
            raise tracking.Diverged("the final evaluation is not finite")
    except MisconfigurationException as error:
        callbacks = ", ".join(task.config.train.callbacks)
        if not callbacks:
            raise
        raise Refused(f"train.callbacks: {callbacks}: {' '.join(str(error).split())}") from error
    except tracking.Diverged as error:
        if trainer.is_global_zero:
            say(f"{task.config.run_id} diverged: {error}", "Warning")
        return {}
    return metrics


def _keep_evaluated(
    network: nn.Module, task: Task, directory: RunDirectory, trainer: pl.Trainer
) -> None:
    """Write the evaluated weights, and the values of each test image, into the run's directory.

    Raises:
        Refused: The network keeps state that the weights do not hold. The checkpoints, which lack
            it, too, are removed, so that no second attempt evaluates what they give.
    """
    try:
        saved_weights.refuse_lost_state(task.config, network, task.first_test_images, trainer)
    except Refused:
        shutil.rmtree(directory.path / "checkpoints")
        raise
    write_atomically(directory.path / "model.safetensors", saved_weights.serialised(network))
    for name, values in task.test_values.items():
        write_atomically(directory.path / metric_of(name).per_image_file, npy(values.numpy()))


def announce(config: RunConfig, latest: Path | None, start: WarmStart | None) -> None:
    """Say on standard error how a run begins, where it is not simply a new one.

    Args:
        config: The run.
        latest: The checkpoint from which it continues.
        start: Weights from which the run starts in place of drawn ones; None for drawn ones.
    """

    def announce_line(text: object) -> None:
        print(f"{config.run_id}: {text}", file=sys.stderr)

    if latest:
        announce_line(f"continues from {latest.name}")
        return
    if outdated(config):
        announce_line("an older version, whose results differ, began it; it starts anew")
    other = begun_on_other_files(config)
    if other:
        announce_line(f"begins anew; {other}, and is another run")
    if start:
        announce_line(start)


def _remarks(
    config: RunConfig,
    classes: list[str],
    images: int,
    start: WarmStart | None,
    device: torch.device,
) -> list[str]:
    """Remarks on settings that are allowed but hardly meant, a line each.

    Args:
        config: The run.
        classes: Names of the classes by label; empty where they are not known.
        images: Number of training images.
        start: Weights from which the run starts in place of drawn ones; None for drawn ones.
        device: One of the devices on which the run is trained.
    """
    remarks = []
    if config.train.batch_size > images:
        remarks.append(
            f"train.batch_size: {config.train.batch_size:,} is more than the {images:,} training images: a step takes all"
        )
    cores = count_cores()
    if device.type == "cpu" and config.runtime.devices > cores:
        remarks.append(
            f"runtime.devices: {config.runtime.devices} processes share {counted(cores, 'CPU core')}"
        )
    other = identity.other_classes(start.classes, classes) if start else ""
    if other:
        remarks.append(f"model.weights: the classifier it starts from is {other}")
    return remarks


def check_curves(directory: RunDirectory) -> None:
    """Check that a run's log holds its training and its final evaluation before the run is called
    finished.

    Raises:
        OSError: Lines are missing, though the run has written them.
    """
    log = directory.log()
    for name in ("train/loss", "test/loss"):
        if not any(name in line for line in log):
            file = directory.path / "metrics.jsonl"
            raise OSError(
                f"{file}: no line has {name}, as if nothing had been logged; remove the folder to train the run again"
            )


def prepare(config: RunConfig) -> None:
    """Set what is global to a process: threads, arithmetic, and which warnings are not shown."""
    torch.set_num_threads(config.train.threads)
    # or Lightning's launcher shares the cores out
    os.environ["OMP_NUM_THREADS"] = str(config.train.threads)
    torch.backends.cudnn.allow_tf32 = False  # 32-true means what it says,
    # also in containers whose environment allows TF32
    torch.set_float32_matmul_precision("highest")
    # No layer reads memory that it has not written, and filling all of it costs a tenth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    for message in QUIET:
        warnings.filterwarnings("ignore", f".*{message}")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def build(config: RunConfig) -> nn.Module:
    """Build the run's network with the weights that its seed draws, channels last in memory (2.5
    times as fast on a CPU).
    """
    return _laid_out(models.build(config.model, config.data.classes, config.seed), config)


def _laid_out(network: nn.Module, config: RunConfig) -> nn.Module:
    """Lay a network out as the run needs it: channels last in memory, and compiled where the
    configuration says so.
    """
    network = network.to(memory_format=torch.channels_last)
    if config.train.compile:
        # A graph for each shape: with sizes left open, what a batch is computed by would depend on
        # which came first. A run has a dozen at most (whole and last batches, training and
        # evaluation), while torch gives up at 8.
        torch._dynamo.config.recompile_limit = 32
        network.compile(dynamic=False)
    return network


def make_trainer(
    config: RunConfig,
    world: World,
    directory: RunDirectory,
    stop_signals: StopSignals,
    *,
    progress: bool,
    quiet: bool,
) -> pl.Trainer:
    """Make Lightning's Trainer with our curves and checkpoints; the logs are added once the run is
    this process's.

    Raises:
        Refused: The accelerator or the devices are not there, this version of Lightning does not
            fit, or a registered callback is none.
    """
    train, runtime = config.train, config.runtime
    folder = directory.path / "checkpoints"
    callbacks: list[pl.Callback] = [
        tracking.Curves(runtime.log_every, quiet),
        checkpoints.Checkpoints(
            folder, runtime.checkpoint_steps, runtime.checkpoint_minutes, stop_signals
        ),
    ]
    if train.ema:
        callbacks.append(AverageWeights(train.ema))
    callbacks += [_registered_callback(name, config) for name in train.callbacks]
    if progress:
        callbacks.append(lightning.ProgressBar())
    return trainer_on_devices(
        config,
        world,
        max_epochs=train.epochs,
        accumulate_grad_batches=train.accumulate,
        gradient_clip_val=train.gradient_clip or None,
        logger=False,
        callbacks=callbacks,
        plugins=[checkpoints.CheckpointFiles()],
        enable_progress_bar=progress,
        default_root_dir=directory.path,
    )


def _registered_callback(name: str, config: RunConfig) -> pl.Callback:
    """Make a registered callback.

    Raises:
        Refused: The function gives none, or one that writes checkpoints.
    """
    entry = register.entry("callback", name)
    made = entry.make(config)
    if not isinstance(made, pl.Callback):
        raise entry.refusal(made, "a Lightning Callback")
    if isinstance(made, Checkpoint):
        raise entry.refusal(made, "no callback that writes checkpoints: a run keeps its own")
    return made


def trainer_on_devices(
    config: RunConfig, world: World, plugins: Sequence[Any] = (), **options: Any
) -> pl.Trainer:
    """Make a Trainer on the run's devices and in its precision. This package handles signals and
    processes, not Lightning.

    Raises:
        Refused: The accelerator or the devices are not there, or this version of Lightning does not
            fit.
    """
    runtime = config.runtime
    lightning.check()
    lightning.set_rank(world.rank)
    plugins = [*plugins, Processes(world)]
    if world.size > 1:
        plugins.append(SyncBatchNorm())
    if world.size > 1 and world.starter == "itself":
        # by which the processes that Lightning starts know that they belong to this one
        os.environ[PARENT] = str(os.getpid())
    try:
        trainer = pl.Trainer(
            accelerator=runtime.accelerator,
            devices=runtime.devices,
            num_nodes=runtime.num_nodes,
            precision=config.train.precision,
            deterministic=config.train.deterministic,
            plugins=list(plugins),
            use_distributed_sampler=False,  # ours shards itself
            num_sanity_val_steps=0,
            enable_model_summary=False,
            **options,
        )
    except (MisconfigurationException, RuntimeError) as error:
        wanted = f"runtime.accelerator {runtime.accelerator}, runtime.devices {runtime.devices}"
        raise Refused(f"{wanted}: {' '.join(str(error).split())}") from None
    if config.train.precision == "16-mixed" and trainer.strategy.root_device.type == "cpu":
        raise Refused(
            "train.precision: 16-mixed needs a GPU (Lightning would train in bf16); bf16-mixed works on a CPU"
        )
    lightning.leave_signals_to_us(trainer)
    return trainer


def evaluate(
    config: RunConfig,
    weights: str | Path,
    split: Literal["test", "val"],
    given: Collection[str] = (),
) -> dict[str, float]:
    """Evaluate weights on a split: top-1 and top-5 (percent) and loss (nats), by name such as
    ``test/top1``.

    Args:
        config: The network, the data and the devices.
        weights: A ``model.safetensors`` or a checkpoint of a run, or what else
            ``models.pretrained.load`` reads.
        split: The split on whose images to evaluate.
        given: Keys of the configuration that the source of foreign weights does not change; see
            ``models.pretrained``.

    Raises:
        Refused: The weights do not fit the network, or the split is empty.
    """
    config = dataclasses.replace(config, data=identity.resolved_data(config.data))
    prepare(config)
    network = _laid_out(pretrained.restore(config.model, config.data.classes, weights)[0], config)
    config = pretrained.with_published_preprocessing(config, weights, given)
    data = DataModule(config)
    data.setup("test")
    if split == "val" and not len(data.validation):
        raise Refused(
            f"--split: val is empty; of the training images data.validation holds out {config.data.validation:g}"
        )
    task = Task(config, network, data.steps_per_epoch, len(data.test))
    world = World.join(config.runtime)
    progress = sys.stderr.isatty()
    trainer = trainer_on_devices(
        config, world, logger=False, enable_checkpointing=False, enable_progress_bar=progress
    )
    run = trainer.test if split == "test" else trainer.validate
    run(task, datamodule=data, verbose=False)
    return task.evaluation


def npy(array: np.ndarray) -> bytes:
    """The bytes of a .npy file that holds an array."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def device_name(device: torch.device) -> str:
    """Name of a device's model, such as ``NVIDIA H100 80GB HBM3`` or that of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if device.type == "cpu" and cpuinfo.exists():
        for line in cpuinfo.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return f"{device.type} ({platform.machine()})"


def arithmetic(device: torch.device) -> str:
    """What, besides the device's model, determines summation order and rounding: compute
    capability, CUDA and cuDNN on a GPU, the instruction set on a CPU."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"compute capability {major}.{minor}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    if device.type == "cpu":
        return torch.backends.cpu.get_cpu_capability()
    return ""


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that compute."""
    found = {
        "xceptlab": xceptlab.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    for name in (
        "torchvision",
        "timm",
        "pytorch-lightning",
        "torchmetrics",
        "numpy",
        "pillow",
        "scikit-learn",
    ):
        found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def git_state() -> dict[str, Any]:
    """Revision of this code and whether it was changed since; empty where the code is not in a git
    checkout.
    """
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(here.parent), *arguments]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return {
            "revision": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.CalledProcessError):
        return {}
