"""Copies of the directories of runs and studies in Weights & Biases. A directory can be sent again,
and only what W&B lacks is added.

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

ID_FILE = "wandb_id"
"""Name of the file in a directory that keeps the id of the directory's run in W&B."""

Mode = Literal["online", "offline"]

UPLOAD_SECONDS = 120
"""Seconds that W&B may take to receive what is left when a run ends. What it does not get in that
time, `xceptlab sync` can send later.
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
"""Fields of a run's record that W&B shows in its table of runs, beside the final metrics."""


class WandbRun:
    """A run that is open in W&B, and is sent the lines of its log that W&B lacks.

    Args:
        config: The run.
        directory: The run's directory.
        mode: ``offline`` only writes files, which `xceptlab sync` can send later.

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
        """The lowest number of a log's line, as W&B counts them in ``_step``, that W&B lacks."""

    def send(self, log: Sequence[dict[str, Any]]) -> None:
        """Send those lines of the run's log that W&B lacks.

        Args:
            log: All lines of the log.
        """
        first = bisect.bisect_left(log, self._next, key=_number)
        for line in log[first:]:
            values = {name: value for name, value in line.items() if name != "time"}
            self._run.log({"_timestamp": line["time"], **values}, step=_number(line), commit=True)
            self._next = _number(line) + 1

    def close(self, record: Record | None) -> None:
        """Send what only the record knows and, with ``runtime.wandb_weights``, the evaluated
        weights of a finished run that is sent online. Then wait until all has arrived.

        Args:
            record: The run's record; with None nothing of it is sent, and W&B shows the run as
                failed.
        """
        with _closing(self._run, exit_code=0 if record else 1):
            if not record:
                return
            shown = {name: getattr(record, name) for name in SUMMARY}
            self._run.summary.update(shown | record.metrics)
            self._run.summary["training_seconds"] = record.seconds
            if self._weights and record.status == "finished":
                self._run.log_artifact(self._weights, name=record.run_id, type="model")


def _number(line: dict[str, Any]) -> int:
    """Return the number of a log's line in W&B, by which W&B knows what it has. A step has at most
    three lines, in this order: of training, of validation, of the final evaluation.
    """
    number = 3 * int(line["step"])
    if is_evaluation(line, "test"):
        return number + 2
    if is_evaluation(line, "val"):
        return number + 1
    return number


def client() -> Any:
    """Return the module ``wandb``, set to be quiet and to report no errors to its developers."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    return wandb


def chosen(runtime: RuntimeConfig) -> Mode | None:
    """Return the mode that ``runtime.wandb`` means here; None where a run is not tracked by W&B.

    ``auto`` is None where wandb is not installed or WANDB_MODE disables it. Else it is online where
    a key is configured and WANDB_MODE does not say otherwise, and offline in all other cases; it
    never asks for a key.

    Raises:
        Refused: ``online`` or ``offline`` is asked for and wandb is not installed, ``online`` is
            asked for and there is no key, or W&B does not accept the key.
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
    """Send a run's directory to W&B, and return the run's address there. Call ``check_key`` before.

    Raises:
        Refused: W&B refuses or cannot be reached, or the log or the record is damaged.
        Busy: The run is being trained.
    """
    if leases.Watch(directory.path).holders():
        raise leases.Busy(
            f"{directory.path}: a process is training this run; what it does not send can be sent when it ends"
        )
    log, record = directory.log(), directory.record()
    with _refusals(directory.path.name):
        wandb_run = WandbRun(config, directory, "online")
        wandb_run.send(log)
        wandb_run.close(record)
    return read(directory.path / "wandb_url").strip()


def sync_study(
    directory: Path,
    name: str,
    project: str,
    question: str,
    verdicts: Sequence[dict[str, Any]],
    summary: dict[str, Any],
) -> str:
    """Send a study's verdicts and its report to a run of their own in W&B, and return its address
    there. Call ``check_key`` before.

    Args:
        directory: The study's folder, with its report.html.
        name: Name of the study, which is also the group of its runs.
        project: Project in W&B; empty for that of the environment, or else ``xceptlab``.
        question: The study's question.
        verdicts: Rows of the table of verdicts, values by column; all rows have the same columns.
            Where there are none, no table is sent.
        summary: Values by name that W&B shows in its table of runs.

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
    """Check that W&B can be used online: ask its server whether it accepts the configured key.

    Raises:
        Refused: W&B is not installed, there is no key, WANDB_MODE is offline or disabled, the
            server cannot be reached, or it does not accept the key.
    """
    if not WANDB:
        raise Refused("W&B: wandb is not installed (pip install wandb)")
    mode = os.environ.get("WANDB_MODE")
    if mode in ("offline", "dryrun", "disabled"):
        raise Refused(f"W&B: WANDB_MODE is {mode}; remove it to reach the server")
    if not _has_key():
        raise Refused(
            "W&B: there is no key; `wandb login` keeps one, and the environment's WANDB_API_KEY is one"
        )


def _has_key() -> bool:
    """Whether a key for W&B is configured.

    Raises:
        Refused: W&B does not know the key, or it cannot be one.
    """
    wandb = client()
    try:
        return bool(wandb.login(prompt=False))
    except (wandb.Error, ValueError) as error:
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
    """Open a directory's run in W&B, or continue it where there is one, and return W&B's object of
    it. The run's address, if W&B gives one, is written to ``wandb_url`` in the directory.

    W&B's environment variables count where nothing is given here, and their tags are added. What
    the agent of a W&B sweep has started belongs to the sweep, but not if ``project`` is given, as
    the sweep is in the environment's project. WANDB_RUN_ID is never used: an agent sets one id for
    its command, which may open several runs. The id is the one that the directory keeps.

    Args:
        directory: The directory of a run or of a study.
        prefix: Beginning of the run's id, and its name where ``options`` has none.
        mode: Whether W&B is asked, or only files are written.
        project: Project in W&B; empty for that of the environment, or else ``xceptlab``.
        tags: Tags of the run in W&B.
        options: Further arguments of ``wandb.init``.

    Raises:
        Refused: W&B refuses or cannot be reached.
    """
    wandb = client()
    run_id = _id_of(directory, prefix)
    name = options.get("name", prefix)
    remedy = f"if it was deleted there, remove {directory / ID_FILE} to send it anew"
    global_settings = wandb.setup().settings
    sweep_and_run = global_settings.sweep_id, global_settings.run_id
    # A sweep is in the environment's project, so that a run in another one cannot belong to it.
    settings = _settings(sweep=None if project else global_settings.sweep_id)
    # W&B would prefer the environment's ids to those that a run is opened with.
    global_settings.sweep_id = global_settings.run_id = None
    try:
        with _refusals(f"{name}; {remedy}"):
            run = wandb.init(
                id=run_id,
                dir=directory,
                resume="allow",
                mode=mode,
                settings=settings,
                project=project or global_settings.project or "xceptlab",
                tags=list(dict.fromkeys([*tags, *(global_settings.run_tags or ())])) or None,
                **{"name": prefix, **options},
            )
    finally:
        # W&B keeps one object of settings per process. Other runs that this process opens need it
        # as it was.
        global_settings.sweep_id, global_settings.run_id = sweep_and_run
    if run.url:
        write_atomically(directory / "wandb_url", run.url.encode())
    return run


def _id_of(directory: Path, prefix: str) -> str:
    """Return the id in W&B of a directory's run, which the directory keeps in a file. At the first
    call it is made up: the prefix and a random suffix.
    """
    file = directory / ID_FILE
    if not file.exists():
        write_atomically(file, f"{prefix}-{secrets.token_hex(4)}".encode())
    return read(file).strip()


def _settings(sweep: str | None) -> Any:
    """Return W&B's settings of a run: it gets what is on disk, and nothing that W&B would collect
    by itself.

    Args:
        sweep: Id of the sweep that the run belongs to; None for none.
    """
    return client().Settings(
        sweep_id=sweep,
        console="off",
        save_code=False,
        # The run's record has the revision.
        disable_git=True,
        reinit="finish_previous",
        finish_timeout=UPLOAD_SECONDS,
        finish_timeout_raises=True,
        # Write every second: by default a killed process loses the last 15 seconds.
        x_transaction_log_flush_interval=1.0,
    )


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Turn W&B's errors in the block into one line that says what W&B does not take.

    Args:
        what: What is sent, in words.

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
    """Close W&B's run after the block, also after an error, and wait until all has arrived.

    Args:
        run: The run, as ``_open`` returns it.
        exit_code: 0 for a run that W&B is to show as finished, else as failed.
    """
    wandb = client()
    try:
        yield
    finally:
        run.finish(exit_code=exit_code)
        # W&B's finish() returns before its process has written the file, and a forked run calls no
        # functions at its exit that would wait for it.
        wandb.teardown()
