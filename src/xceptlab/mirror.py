"""Weights & Biases mirrors what the directories hold: each of them can be sent again, and its run gains what it lacks there.

A run has one id in W&B for its whole life: its own and a nonce, kept in its directory. The number of a line in metrics.jsonl is
its step there (``_step``; charts are drawn over ``step``): each line arrives once, however often a run continues or is sent.
"""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning_utilities.core.imports import RequirementCache

from xceptlab import leases
from xceptlab.records import Record, RunDirectory, write_atomically
from xceptlab.schema import RunConfig, RuntimeConfig

WANDB = RequirementCache("wandb")

Mode = Literal["online", "offline"]


class Mirror:
    """One run, opened in W&B.

    Raises:
        ValueError: W&B refuses, or cannot be reached.
    """

    def __init__(self, config: RunConfig, directory: RunDirectory, mode: Mode) -> None:
        self._weights = directory.path / "model.safetensors" if config.runtime.wandb_weights else None
        self._run = _open(
            directory.path,
            config.run_id,
            mode,
            name=config.run_id,
            project=config.runtime.wandb_project,
            group=config.runtime.study or None,
            job_type=config.runtime.arm or None,
            tags=directory.studies() or None,
            config=config.science(),
        )
        self._run.define_metric("*", step_metric="step")
        self._sent: int = self._run.starting_step

    def send(self, log: Sequence[dict[str, Any]]) -> None:
        """Send the lines of the run's log that W&B lacks."""
        for number in range(self._sent, len(log)):
            line = dict(log[number])
            self._run.log({"_timestamp": line.pop("time"), **line}, step=number, commit=True)
            self._sent = number + 1

    def close(self, record: Record | None) -> None:
        """Send what only the record knows, and wait until all has arrived; without a record the run stays unfinished."""
        try:
            if record:
                known = {"status": record.status, "parameters": record.parameters, "macs": record.macs, **record.metrics}
                self._run.summary.update(known)
                if self._weights and record.status == "finished":
                    self._run.log_artifact(self._weights, name=record.run_id, type="model")
        finally:
            _close(self._run, 0 if record else 1)


def chosen(runtime: RuntimeConfig) -> Mode | None:
    """Where ``runtime.wandb`` sends a run; None for nowhere. ``auto`` is online where a key is configured, and never asks.

    Raises:
        ValueError: W&B is asked for and not installed, or does not accept the key.
    """
    if runtime.wandb == "disabled" or (runtime.wandb == "auto" and (os.environ.get("WANDB_MODE") == "disabled" or not WANDB)):
        return None
    if not WANDB:
        raise ValueError("wandb is not installed (pip install wandb)")
    if runtime.wandb != "auto":
        return runtime.wandb
    return "online" if os.environ.get("WANDB_MODE") not in ("offline", "dryrun") and _has_key() else "offline"


def sync(config: RunConfig, directory: RunDirectory) -> str:
    """Send a run's directory to W&B; returns the run's address there.

    Raises:
        ValueError: There is no key, or W&B refuses or cannot be reached.
        Busy: The process that trains the run sends it.
    """
    if leases.Watch(directory.path).look() and (directory.path / "wandb_url").exists():
        raise leases.Busy(f"{directory.path}: the process that trains this run sends it to W&B, too")
    mirror = Mirror(config, directory, _online())
    mirror.send(directory.log())
    mirror.close(directory.record())
    return (directory.path / "wandb_url").read_text().strip()


def sync_study(
    directory: Path, name: str, project: str, question: str, verdicts: Sequence[dict[str, Any]], summary: dict[str, Any]
) -> str:
    """Send a study's verdicts and its report to a run of their own in W&B; returns its address there.

    Args:
        directory: The study's, with its report.html.
        name: The study's, which is also the group of its runs.
        project: In W&B.
        question: The study's.
        verdicts: The rows of the table.
        summary: What W&B shows of the run in its table of runs.

    Raises:
        ValueError: There is no key, or W&B refuses or cannot be reached.
    """
    mode = _online()
    import wandb

    run = _open(directory, "study", mode, name=name, project=project, group=name, job_type="study", config={"question": question})
    table = wandb.Table(columns=list(verdicts[0]), data=[list(row.values()) for row in verdicts])
    run.log({"verdicts": table, "report": wandb.Html((directory / "report.html").read_text(), inject=False)})
    run.summary.update(summary)
    _close(run, 0)
    return (directory / "wandb_url").read_text().strip()


def _online() -> Literal["online"]:
    if not WANDB:
        raise ValueError("W&B: wandb is not installed (pip install wandb)")
    if not _has_key():
        raise ValueError("W&B: there is no key; `wandb login` keeps one, and the environment's WANDB_API_KEY is one")
    return "online"


def _has_key() -> bool:
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    try:
        return bool(wandb.login(prompt=False))
    except (wandb.Error, ValueError) as error:  # a key that cannot be one
        raise ValueError(f"W&B: {error}") from None


def _open(directory: Path, prefix: str, mode: Mode, **options: Any) -> Any:
    """W&B's run of this directory, continued where there is one, with its address in ``wandb_url``."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to W&B's developers
    import wandb

    nonce = directory / "wandb_id"
    if not nonce.exists():
        write_atomically(nonce, secrets.token_hex(4).encode())
    settings = wandb.Settings(
        console="off",
        save_code=False,
        reinit="finish_previous",
        x_transaction_log_flush_interval=1.0,  # seconds; else a kill costs the last 15
    )
    try:
        run = wandb.init(
            id=f"{prefix}-{nonce.read_text().strip()}",
            dir=directory,
            resume="allow",
            mode=mode,
            settings=settings,
            **options,
        )
    except (wandb.Error, OSError) as error:
        wandb.teardown()
        raise ValueError(
            f"W&B does not take {prefix} ({error}); if it was deleted there, remove {nonce} and send it anew"
        ) from None
    if run.url:
        write_atomically(directory / "wandb_url", run.url.encode())
    return run


def _close(run: Any, exit_code: int) -> None:
    import wandb

    run.finish(exit_code=exit_code)
    wandb.teardown()  # finish() returns before the file is written; a forked run has no atexit
