"""One run: a configuration in, a record out. Read this file first: from top to bottom it is how a
run works.
"""

import ctypes
import dataclasses
import io
import logging
import os
import shutil
import socket
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
from xceptlab.models.warm_start import SEEN, WarmStart, warm_start
from xceptlab.runs.directory import RunDirectory, begun_on_other_files, outdated
from xceptlab.runs.log import final_metrics, throughput
from xceptlab.runs.metrics import metric_of
from xceptlab.runs.record import Record
from xceptlab.runs.world import World, count_cores
from xceptlab.signals import PARENT, StopSignals, die_with_parent
from xceptlab.text import counted, say
from xceptlab.training import checkpoints, lightning, provenance, saved_weights, tracking
from xceptlab.training.optim import AverageWeights
from xceptlab.training.parallel import Processes, SyncBatchNormPlugin
from xceptlab.training.task import Task

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
"""Parameters of glibc's ``mallopt``, by their names and numbers in its ``malloc.h``."""

QUIET = (
    "does not have many workers",
    "Our suggested max number of worker",
    "is smaller than the logging interval",
    "isinstance.treespec, LeafSpec",
    "Checkpoint directory .* exists and is not empty",
    # A run may have no validation images.
    "Total length of `list` across ranks is zero",
    # The metrics are summed over all processes before they are logged.
    "It is recommended to use `self.log",
    # The order of the training images begins where the run stands.
    "your dataloader is not resumable",
    "The `srun` command is available",
)
"""Regular expressions for parts of warnings that tell a user nothing, and are not shown."""


def train(config: RunConfig, *, progress: bool = True, quiet: bool = False) -> Record:
    """Train, evaluate and record a run, or continue it where it stopped; a run that has its record
    is not trained again.

    Args:
        config: The run, with the digests of its data and weights that ``data.resolved`` adds.
        progress: Show a progress bar; without one a line is printed after each epoch.
        quiet: Show neither the bar nor the lines.

    Returns:
        The record of the run, which may have diverged.

    Raises:
        Refused: The configuration does not fit the data, the devices or what is installed, the
            weights to start from cannot be used, the run was trained on other data than there are
            now, a file in its directory is damaged, or a user's own component raises an error or
            gives something that is not allowed.
        Busy: Another process is training this run.
        Interrupted: A signal asked to stop; the same call continues.
        KeyboardInterrupt: The user pressed Ctrl-C; the same call continues.
        SystemExit: The run was asked to stop, and this is not its first process.
        OSError: A file cannot be read or written, such as on a full disk.
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
        # The result is cached now: when the run ends, the code may be another than is loaded.
        provenance.git_state()
        configure_process(config)
        data = DataModule(config)
        data.setup("fit")
        # This refuses files that have changed. With data.download they are here only now.
        resolved(config)
        network = build(config)
        start = warm_start(config.model, network, config.data)
        if start:
            network.load_state_dict(start.state)
        trainer = make_trainer(
            config, world, directory, stop_signals, progress=progress and not quiet, quiet=quiet
        )
        directory.create()
        # Only the first process writes to the directory, and holds its lease.
        if not world.first:
            return _train(config, directory, data, network, start, trainer, stop_signals)
        with directory.locked():
            record = directory.record()
            # The process that held the lease until now may have finished the run.
            if record:
                return record
            write_atomically(directory.path / "config.yaml", dump_run(config).encode())
            record = _train(config, directory, data, network, start, trainer, stop_signals)
        # The lease is given back by now, since W&B may take its time and the run is done.
        tracking.finish(trainer, record)
        return record


def _refuse_record_of_other_data(
    config: RunConfig, directory: RunDirectory, record: Record
) -> None:
    """Check that a run that is done was trained on the data that there are now. It passes where the
    data are not at hand.

    Raises:
        Refused: They are other data, or cannot be read.
    """
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
    """Fit a run, from its newest checkpoint where there is one, evaluate and record it, and return
    its record. Each process of the run calls this; only the first, which holds the run's lease,
    writes the record and the evaluated weights.

    Args:
        config: The run.
        directory: The run's directory.
        data: The run's images.
        network: The network, with the weights that the run starts from.
        start: Existing weights that the network has been given; None for drawn ones.
        trainer: The run's Trainer, which gets its loggers here.
        stop_signals: The signals that ask the run to stop.

    Raises:
        Refused: The run began with other data, a file in its directory is damaged, a logger or a
            registered component cannot be used, or the network keeps state that its weights do not
            hold.
        Interrupted, KeyboardInterrupt, SystemExit: A signal asked the run to stop.
        OSError: A file cannot be read or written.
    """
    started = time.time()
    parameters, macs = cost(config.model, config.data.classes, config.data.size)
    # The data's files are there now, and may be gone when the run ends.
    files = {"fingerprint": data.fingerprint(), "files": identity.files(config.data)}
    classes = list(identity.class_names(config.data))
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
    log = directory.log()
    record = _record(
        config,
        data,
        trainer,
        log,
        metrics=metrics,
        started=started,
        parameters=parameters,
        macs=macs,
        files=files,
        classes=classes,
        registrations=directory.registrations(),
        weights=start.description if start else "",
    )
    if trainer.is_global_zero:
        if metrics is not None:
            check_curves(log, directory.path / "metrics.jsonl")
            _warn_of_missing_steps(config, trainer.global_step, len(data.train))
            _keep_evaluated(network, task, directory, trainer)
        directory.write_record(record)
        shutil.rmtree(directory.path / "checkpoints")
    return record


def _refuse_to_continue_on_other_data(
    config: RunConfig, directory: RunDirectory, began_with: dict[str, str], files: dict[str, str]
) -> None:
    """Check that the data are those with which an interrupted run began.

    Args:
        config: The run.
        directory: The run's directory.
        began_with: The data when the run began: as ``fingerprint`` a hash of their labels and
            decoded images (of photographs, of a few images only), and as ``files`` a digest of the
            files' names and sizes, empty where there is none.
        files: The same of the data that there are now.

    Raises:
        Refused: They are other data.
    """
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
) -> dict[str, float] | None:
    """Train a run to its end, from a checkpoint where there is one, then evaluate it on the test
    split.

    Args:
        task: The network and how it is trained.
        data: The images.
        directory: The run's directory.
        latest: The checkpoint to continue from; None for a run that begins.
        trainer: The run's Trainer.
        stop_signals: The signals that ask the run to stop, which it does between two steps.

    Returns:
        The final metrics by name, all of them finite; None if the run diverged.

    Raises:
        Refused: Lightning says that a registered callback cannot work in this run, another
            registered component cannot be used, or the checkpoint or the log is damaged.
        MisconfigurationException: Lightning cannot train a run that has no registered callbacks.
        Interrupted, KeyboardInterrupt, SystemExit: A signal asked the run to stop.
        OSError: A file cannot be read or written.
    """
    try:
        with lightning.keyboard_interrupt():
            with stop_signals.deferred():
                trainer.fit(task, datamodule=data, ckpt_path=latest, weights_only=True)
            trainer.test(task, datamodule=data, verbose=False)
    except MisconfigurationException as error:
        callbacks = ", ".join(task.config.train.callbacks)
        if not callbacks:
            raise
        raise Refused(f"train.callbacks: {callbacks}: {' '.join(str(error).split())}") from error
    except tracking.Diverged as error:
        _warn_of_divergence(task.config, trainer, str(error))
        return None
    # The last validation may have been before an interruption: only the log has its scores then.
    metrics = final_metrics(directory.log()) | task.evaluation
    if not np.isfinite(list(metrics.values())).all():
        _warn_of_divergence(task.config, trainer, "the final evaluation is not finite")
        return None
    return metrics


def _warn_of_divergence(config: RunConfig, trainer: pl.Trainer, why: str) -> None:
    """Tell the user, in the run's first process, that the run diverged; ``why`` is the reason, a
    sentence without a full stop.
    """
    if trainer.is_global_zero:
        say(f"{config.run_id} diverged: {why}", "Warning")


def _warn_of_missing_steps(config: RunConfig, steps: int, train_images: int) -> None:
    """Tell the user if a run made fewer optimizer steps than its configuration asks for."""
    planned = config.train.steps(train_images)
    if steps < planned:
        say(
            f"{config.run_id}: made {steps:,} of {planned:,} optimizer steps; a callback ended it or gathered batches",
            "Warning",
        )


def _record(
    config: RunConfig,
    data: DataModule,
    trainer: pl.Trainer,
    log: list[dict[str, Any]],
    *,
    metrics: dict[str, float] | None,
    started: float,
    parameters: int,
    macs: int,
    files: dict[str, str],
    classes: list[str],
    registrations: list[str],
    weights: str,
) -> Record:
    """Build the record of a run that has just ended.

    Args:
        config: The run.
        data: Its images.
        trainer: Its Trainer, which knows the devices and the number of steps.
        log: The lines of its log.
        metrics: Its final metrics; None if it diverged.
        started: Unix time at which this process took the run up; the log may begin earlier.
        parameters: Number of the network's trainable parameters.
        macs: Multiply-accumulates of one image's forward pass.
        files: The data: as ``fingerprint`` a hash of their labels and decoded images (of
            photographs, of a few images only), and as ``files`` a digest of the files' names and
            sizes, empty where there is none.
        classes: Names of the classes by label; empty where they are not known.
        registrations: Digests of the studies' registrations that stood before the run began.
        weights: Source of the weights that the run started from; empty for drawn ones.
    """
    device = trainer.strategy.root_device
    seconds, images_per_second = throughput(log)
    return Record(
        run_id=config.run_id,
        status="diverged" if metrics is None else "finished",
        science=config.science(),
        metrics=metrics or {},
        parameters=parameters,
        macs=macs,
        test_images=len(data.test),
        steps=trainer.global_step,
        seconds=seconds,
        images_per_second=images_per_second,
        device=provenance.device_name(device),
        arithmetic=provenance.arithmetic(device),
        world_size=trainer.world_size,
        precision=config.train.precision,
        data_fingerprint=files["fingerprint"],
        data_files=files["files"],
        classes=classes,
        versions=provenance.versions(),
        git=provenance.git_state(),
        started=min([started, *(line["time"] for line in log)]),
        finished=time.time(),
        train_images=len(data.train),
        validation_images=len(data.validation),
        majority_class=data.majority_class(),
        host=socket.gethostname(),
        registrations=registrations,
        weights=weights,
    )


def _keep_evaluated(
    network: nn.Module, task: Task, directory: RunDirectory, trainer: pl.Trainer
) -> None:
    """Write the evaluated weights and, for each metric, each test image's value into the run's
    directory.

    Raises:
        Refused: The network keeps state that the weights do not hold. The checkpoints lack it, too,
            and are removed, so that no second attempt continues from them.
        OSError: A file cannot be written.
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
        latest: The checkpoint from which it continues; None for a run that begins.
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
    """Return remarks on settings that are allowed but hardly meant, a line each.

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
    if start and start.has_seen_validation:
        remarks.append(f"model.weights: the run that they are of {SEEN}")
    return remarks


def check_curves(log: list[dict[str, Any]], file: Path) -> None:
    """Check that a run's log holds its training and its final evaluation, before the run is called
    finished.

    Args:
        log: The lines of the log.
        file: The file that they were read from.

    Raises:
        OSError: Lines are missing, though the run has written them.
    """
    for name in ("train/loss", "test/loss"):
        if not any(name in line for line in log):
            raise OSError(
                f"{file}: no line has {name}, as if nothing had been logged; remove the folder to train the run again"
            )


def configure_process(config: RunConfig) -> None:
    """Set what is global to this process, before a Trainer is made: torch's threads and those that
    OMP_NUM_THREADS gives to the run's other processes, arithmetic in full 32 bits (no TF32), memory
    that is kept from step to step and not filled before use, and which warnings and log messages
    are not shown.
    """
    torch.set_num_threads(config.train.threads)
    # Without this variable Lightning's launcher would share the cores out among the processes.
    os.environ["OMP_NUM_THREADS"] = str(config.train.threads)
    # Precision 32-true means 32 bits, also in containers whose environment allows TF32.
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    _keep_freed_memory()
    # No layer reads memory that it has not written, and filling all of it costs a tenth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    for message in QUIET:
        warnings.filterwarnings("ignore", f".*{message}")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _keep_freed_memory() -> None:
    """Let glibc keep the memory that a step frees, for the next step.

    Otherwise it gives large blocks back to the system, which clears them anew for every step: a
    tenth of a step at 299 x 299 pixels on a CPU. Other C libraries have no such function.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    # Older versions of glibc allow 32 MiB at most, and refuse more by returning 0.
    if libc.mallopt(M_MMAP_THRESHOLD, 2**30) or libc.mallopt(M_MMAP_THRESHOLD, 2**25):
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def build(config: RunConfig) -> nn.Module:
    """Build a run's network, its weights drawn by the run's seed and its memory laid out with
    channels last (2.5 times as fast on a CPU). With ``train.compile`` it is compiled when it is
    first called.

    Raises:
        Refused: There is no such network, or it cannot be built.
    """
    return _laid_out(models.build(config.model, config.data.classes, config.seed), config)


def _laid_out(network: nn.Module, config: RunConfig) -> nn.Module:
    """Lay a network out as the run needs it: channels last in memory, and compiled where the
    configuration says so.
    """
    network = models.channels_last(network)
    if config.train.compile:
        # Compile once for each shape of batch: with sizes left open, the bits of a batch would
        # depend on which shapes came before it. A run has a dozen shapes at most (whole and last
        # batches, training and evaluation), but torch's limit is 8.
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
    """Build Lightning's Trainer for a run, with our callbacks for curves and checkpoints.

    It has no loggers: ``_train`` adds them once this process holds the run's directory.

    Args:
        config: The run.
        world: This process's place among those of the run.
        directory: The run's directory.
        stop_signals: The signals that ask the run to stop.
        progress: Show a progress bar.
        quiet: Without a progress bar, print no line after each epoch.

    Raises:
        Refused: The accelerator or the devices are not there, the precision is not to be had on
            them, this version of Lightning does not fit, or a registered callback is missing or
            cannot be used.
    """
    train, runtime = config.train, config.runtime
    folder = directory.path / "checkpoints"
    callbacks: list[pl.Callback] = [
        checkpoints.Checkpoints(
            folder, runtime.checkpoint_steps, runtime.checkpoint_minutes, stop_signals
        ),
    ]
    if train.ema:
        callbacks.append(AverageWeights(train.ema))
    callbacks += [_registered_callback(name, config) for name in train.callbacks]
    # After those of the user, one of which may end the training with this batch.
    callbacks.append(tracking.Curves(runtime.log_every, quiet))
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
    """Build the Lightning callback that a module of the user's has registered as ``name``.

    Raises:
        Refused: No function is registered as ``name``; or it raises an error, or gives something
            other than a Callback, or a callback that writes checkpoints.
    """
    entry = register.entry("callback", name)
    made = entry.call(config)
    if not isinstance(made, pl.Callback):
        raise entry.refusal(made, "a Lightning Callback")
    if isinstance(made, Checkpoint):
        raise entry.refusal(made, "no callback that writes checkpoints: a run keeps its own")
    return made


def trainer_on_devices(
    config: RunConfig, world: World, plugins: Sequence[Any] = (), **options: Any
) -> pl.Trainer:
    """Build a Trainer on a run's devices and in its precision. It takes the ranks and the number of
    the run's processes from ``world``, not from the environment, and handles no signals, which this
    package does.

    Args:
        config: The run.
        world: This process's place among those of the run.
        plugins: Further plugins of the Trainer.
        options: Further arguments of the Trainer.

    Raises:
        Refused: The accelerator or the devices are not there, this version of Lightning does not
            fit, or the precision is not to be had on the device.
    """
    runtime = config.runtime
    lightning.check()
    lightning.set_rank(world.rank)
    plugins = [*plugins, Processes(world)]
    if world.size > 1:
        plugins.append(SyncBatchNormPlugin())
    if world.size > 1 and world.starter == "itself":
        # By this variable the processes that Lightning starts know that they belong to this one.
        os.environ[PARENT] = str(os.getpid())
    try:
        trainer = pl.Trainer(
            accelerator=runtime.accelerator,
            devices=runtime.devices,
            num_nodes=runtime.num_nodes,
            precision=config.train.precision,
            deterministic=config.train.deterministic,
            plugins=list(plugins),
            # The orders in data/order.py give each process its own images.
            use_distributed_sampler=False,
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
    """Evaluate weights on the images of a split.

    Args:
        config: The network, the data and the devices.
        weights: A run's folder, a file of weights or a checkpoint; for Xception also a file of
            Keras's weights or timm's name of the network.
        split: The split on whose images to evaluate.
        given: Dotted keys, such as ``data.eval_crop``, that the user has set for this evaluation.
            With timm's weights of Xception, timm's published crop and interpolation replace those
            of the configuration that have their defaults, but not those set here.

    Returns:
        Scores by name, such as ``test/top1`` and ``test/top5`` (percent) and ``test/loss`` (nats).

    Raises:
        Refused: The weights cannot be read or do not fit the network, the data or the devices are
            not there, or the split is empty.
    """
    config = dataclasses.replace(config, data=identity.resolved_data(config.data))
    configure_process(config)
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
    """Return the bytes of a .npy file that holds an array."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
