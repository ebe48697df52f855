"""Weights & Biases mirrors the directories of runs and studies. A directory can be sent again, and
only what W&B lacks is added.

A run has one id in W&B for its whole life: its run id with a random suffix, kept in its directory.
The number of a log's line in W&B (``_step``; charts are drawn over ``step``) follows from the line,
so that each line arrives once, however often a run continues or is sent.
"""

import bisect
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from lightning_utilities.core.imports import RequirementCache

from xceptlab.config.schema import RunConfig, RuntimeConfig
from xceptlab.errors import Refused
from xceptlab.files import read, write_atomically
from xceptlab.runs import leases
from xceptlab.runs.directory import RunDirectory
from xceptlab.runs.log import is_evaluation
from xceptlab.runs.record import Record

WANDB = RequirementCache("wandb")

Mode = Literal["online", "offline"]

UPLOAD_SECONDS = 120
"""Seconds that W&B may take to receive what is left when a run ends; `xceptlab sync` can send it
later.
"""


SUMMARY = (
    "status",
    "parameters",
    "macs",
    "steps",
    "images_per_second",
    "device",
    "world_size",
    "git",
)
"""Fields of the record that W&B shows in its table of runs."""


class Mirror:
    """One run that is opened in W&B and gets what its log has gained.

    Raises:
        Refused: W&B refuses, or cannot be reached.
    """

    def __init__(self, config: RunConfig, directory: RunDirectory, mode: Mode) -> None:
        sends_weights = config.runtime.wandb_weights and mode == "online"
        self._weights = directory.path / "model.safetensors" if sends_weights else None
        self._run = _open(
            directory.path,
            directory.path.name,
            mode,
            project=config.runtime.wandb_project,
            group=config.runtime.study or None,
            job_type=config.runtime.arm or None,
            tags=directory.studies(),
            config=config.science(),
        )
        self._run.define_metric("*", step_metric="step")
        self._next: int = self._run.starting_step

    def send(self, log: Sequence[dict[str, Any]]) -> None:
        """Send the lines of the run's log that W&B lacks."""
        first = bisect.bisect_left(log, self._next, key=_number)
        for line in log[first:]:
            values = {name: value for name, value in line.items() if name != "time"}
            self._run.log({"_timestamp": line["time"], **values}, step=_number(line), commit=True)
            self._next = _number(line) + 1

    def close(self, record: Record | None) -> None:
        """Send what only the record knows, and wait until all has arrived; without a record the run
        stays unfinished.
        """
        with _closing(self._run, exit_code=0 if record else 1):
            if not record:
                return
            self._run.summary.update(
                {name: getattr(record, name) for name in SUMMARY} | record.metrics
            )
            self._run.summary["training_seconds"] = record.seconds
            if self._weights and record.status == "finished":
                self._run.log_artifact(self._weights, name=record.run_id, type="model")


def _number(line: dict[str, Any]) -> int:
    """Number of a log's line in W&B: a step has at most three lines, of training, of validation, of
    the final evaluation.
    """
    number = 3 * int(line["step"])
    if is_evaluation(line, "test"):
        return number + 2
    if is_evaluation(line, "val"):
        return number + 1
    return number


def client() -> Any:
    """The module ``wandb``, set to be quiet and to report no errors to its developers."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb


def chosen(runtime: RuntimeConfig) -> Mode | None:
    """Mode in which ``runtime.wandb`` sends a run; None for none. ``auto`` is online where a key is
    configured, and never asks.

    Raises:
        Refused: W&B is asked for and not installed, or there is no key that it accepts.
    """
    if runtime.wandb == "disabled":
        return None
    if runtime.wandb == "auto" and (os.environ.get("WANDB_MODE") == "disabled" or not WANDB):
        return None
    if not WANDB:
        raise Refused("wandb is not installed (pip install wandb)")
    if runtime.wandb == "online":
        check_key()
    if runtime.wandb != "auto":
        return runtime.wandb
    wants_offline = os.environ.get("WANDB_MODE") in ("offline", "dryrun")
    return "offline" if wants_offline or not _has_key() else "online"


def sync_run(config: RunConfig, directory: RunDirectory) -> str:
    """Send a run's directory to W&B; returns the run's address there. The key is checked already.

    Raises:
        Refused: W&B refuses or cannot be reached.
        Busy: The run is being trained.
    """
    if leases.Watch(directory.path).holders():
        raise leases.Busy(
            f"{directory.path}: a process is training this run; what it does not send can be sent when it ends"
        )
    log, record = directory.log(), directory.record()
    with _refusals(directory.path.name):
        mirror = Mirror(config, directory, "online")
        mirror.send(log)
        mirror.close(record)
    return read(directory.path / "wandb_url").strip()


def sync_study(
    directory: Path,
    name: str,
    project: str,
    question: str,
    verdicts: Sequence[dict[str, Any]],
    summary: dict[str, Any],
) -> str:
    """Send a study's verdicts and its report to a run of their own in W&B; returns its address
    there. The key is checked already.

    Args:
        directory: The study's folder, with its report.html.
        name: Name of the study, which is also the group of its runs.
        project: Project in W&B; see ``runtime.wandb_project``.
        question: The study's question.
        verdicts: Rows of the table of verdicts.
        summary: Values that W&B shows of this run in its table of runs.

    Raises:
        Refused: W&B refuses or cannot be reached.
    """
    wandb = client()
    report = (directory / "report.html").read_text("utf-8")
    with _refusals(name):
        run = _open(
            directory,
            "study",
            "online",
            name=name,
            project=project,
            group=name,
            job_type="study",
            config={"question": question},
        )
        with _closing(run, exit_code=0):
            run.log({"report": wandb.Html(report, inject=False)}, commit=not verdicts)
            if verdicts:
                rows = [list(verdict.values()) for verdict in verdicts]
                run.log({"verdicts": wandb.Table(columns=list(verdicts[0]), data=rows)})
            run.summary.update(summary)
    return read(directory / "wandb_url").strip()


def check_key() -> None:
    """Check that W&B can be used.

    Raises:
        Refused: W&B is not installed, there is no key, or W&B does not accept the key.
    """
    if not WANDB:
        raise Refused("W&B: wandb is not installed (pip install wandb)")
    if not _has_key():
        raise Refused(
            "W&B: there is no key; `wandb login` keeps one, and the environment's WANDB_API_KEY is one"
        )


def _has_key() -> bool:
    """Whether a key is configured.

    Raises:
        Refused: W&B does not accept it.
    """
    wandb = client()
    try:
        return bool(wandb.login(prompt=False))
    except (
        wandb.Error,
        ValueError,
    ) as error:  # a key that W&B does not know, or that cannot be one
        raise Refused(f"W&B: {error}") from None


def _open(
    directory: Path,
    prefix: str,
    mode: Mode,
    *,
    project: str,
    tags: Sequence[str] = (),
    **options: Any,
) -> Any:
    """Open W&B's run of a directory, and continue it where there is one; its address goes into
    ``wandb_url``.

    W&B's environment variables count where nothing is given here, and their tags are added. In a
    sweep the run belongs to the sweep, but keeps its id: the sweep's agent gives one id to all that
    its command runs.

    Raises:
        Refused: W&B refuses or cannot be reached.
    """
    wandb = client()
    id_file = directory / "wandb_id"
    if not id_file.exists():
        write_atomically(id_file, f"{prefix}-{secrets.token_hex(4)}".encode())
    environment = wandb.setup().settings
    sweep_and_run = environment.sweep_id, environment.run_id
    # a sweep is in the environment's project
    settings = _settings(sweep=None if project else environment.sweep_id)
    # W&B would prefer them to what a run is opened with
    environment.sweep_id = environment.run_id = None
    try:
        with _refusals(
            f"{options.get('name', prefix)}; if it was deleted there, remove {id_file} to send it anew"
        ):
            run = wandb.init(
                id=read(id_file).strip(),
                dir=directory,
                resume="allow",
                mode=mode,
                settings=settings,
                project=project or environment.project or "xceptlab",
                tags=list(dict.fromkeys([*tags, *(environment.run_tags or ())])) or None,
                **{"name": prefix, **options},
            )
    finally:
        environment.sweep_id, environment.run_id = sweep_and_run  # this process may open other runs
    if run.url:
        write_atomically(directory / "wandb_url", run.url.encode())
    return run


def _settings(sweep: str | None) -> Any:
    """W&B's settings of a run: it mirrors what is on disk, and nothing that W&B would collect by
    itself.
    """
    return client().Settings(
        sweep_id=sweep,
        console="off",
        save_code=False,
        disable_git=True,  # the record has the revision
        reinit="finish_previous",
        finish_timeout=UPLOAD_SECONDS,
        finish_timeout_raises=True,
        x_transaction_log_flush_interval=1.0,  # seconds; else a kill costs the last 15
    )


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Turn W&B's errors into one line that says what W&B does not take.

    Raises:
        Refused: W&B raised an error, or cannot be reached.
    """
    wandb = client()
    try:
        yield
    except (wandb.Error, OSError) as error:
        wandb.teardown()
        raise Refused(f"W&B does not take {what} ({error})") from None


@contextmanager
def _closing(run: Any, exit_code: int) -> Iterator[None]:
    """Close W&B's run after the block, and wait until all has arrived."""
    wandb = client()
    try:
        yield
    finally:
        run.finish(exit_code=exit_code)
        wandb.teardown()  # finish() returns before the file is written; a forked run has no atexit
