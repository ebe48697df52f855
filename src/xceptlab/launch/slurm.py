"""Runs as SLURM's job arrays, through submitit; the outputs and the code are in a folder that all
nodes see.

Before it preempts a job, or its time is over, SLURM sends SIGUSR2: the run writes a checkpoint, and
the job goes back into the queue and continues. What the jobs are doing is asked of squeue, since
many clusters keep no accounts for sacct. Jobs outlive a coordinator that is killed; the next one
finds their numbers in the runs' directories.
"""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from lightning_utilities.core.imports import RequirementCache

from xceptlab.config.schema import RunConfig
from xceptlab.errors import BAD_INPUT, FAILED, INTERRUPTED, Refused
from xceptlab.files import write_atomically
from xceptlab.launch.child import print_to
from xceptlab.launch.failures import note_failure
from xceptlab.launch.launcher import Job, Launcher, Main, check_gpus

NOTICE = 90
"""Seconds before the end of its time at which SLURM sends a job SIGUSR2."""
CANCEL_SECONDS = 40.0
"""Seconds that cancelled jobs get to end by themselves; SLURM itself kills them after its KillWait,
30 s.
"""
RESUBMIT_SECONDS = 60.0
"""Seconds until jobs that SLURM refused are submitted again."""


class Slurm(Launcher):
    """Runs as jobs of SLURM, as the ``launcher`` section of their configuration asks for them."""

    pause = 5.0
    outlived = True

    def __init__(self, main: Main, jobs: int | None) -> None:
        super().__init__(main, jobs)
        if not RequirementCache("submitit"):
            raise Refused(
                "launcher.name: slurm needs submitit, which is not installed (pip install 'xceptlab[slurm]')"
            )
        if not shutil.which("sbatch"):
            raise Refused("launcher.name: slurm needs SLURM, and there is no command sbatch here")
        self._queue: dict[str, str] | None = None
        """State of each of the user's jobs by number, as ``_squeue`` answered last; None without an
        answer.
        """

    def check(self, config: RunConfig) -> None:
        check_gpus(config)

    def _ready(self) -> Iterator[Job]:
        """Waiting runs as ``Launcher`` gives them, after taking over jobs in the queue that an
        earlier coordinator submitted.
        """
        queue = self._queue or {}
        for job in self.jobs.values():
            number, _ = _last_job(job)
            if job.state == "waiting" and number in queue:
                job.handle = number
                job.state = "queued"
        return super()._ready()

    def begin(self, ready: Iterator[Job]) -> None:
        if self._queue is None:
            return
        arrays = defaultdict(list)  # the jobs of an array ask for the same nodes, devices and cores
        for job in ready:
            runtime = job.config.runtime
            arrays[runtime.num_nodes, runtime.devices, _cores_of_a_task(job.config)].append(job)
        for jobs in arrays.values():
            self._submit(jobs)

    def exit_codes(self, jobs: list[Job]) -> dict[str, int]:
        self._queue = _squeue()
        codes: dict[str, int] = {}
        if self._queue is None:
            return codes
        for job in jobs:
            state = self._queue.get(job.handle)
            if state is None:
                _, code = _last_job(job)
                codes[job.config.run_id] = code
            else:
                job.state = "running" if state in ("RUNNING", "COMPLETING") else "queued"
        return codes

    def stop(self) -> None:
        numbers = [job.handle for job in self.jobs.values() if job.handle]
        if not numbers:
            return
        subprocess.run(["scancel", "--quiet", *numbers], check=False)
        deadline = time.monotonic() + CANCEL_SECONDS
        try:
            while time.monotonic() < deadline:
                queue = _squeue()
                if queue is not None and not set(numbers) & queue.keys():
                    break
                time.sleep(1)
        finally:  # also when this is interrupted
            subprocess.run(["scancel", "--quiet", "--signal=KILL", *numbers], check=False)

    def _submit(self, jobs: list[Job]) -> None:
        """Submit these runs as one job array, and keep each one's job number in its directory."""
        import submitit

        config = jobs[0].config
        cpus = _cores_of_a_task(config)
        executor = submitit.SlurmExecutor(_folder(config))
        executor.update_parameters(
            job_name="xceptlab",
            time=config.launcher.minutes,
            nodes=config.runtime.num_nodes,
            ntasks_per_node=config.runtime.devices,
            cpus_per_task=cpus,
            array_parallelism=len(jobs),
            signal_delay_s=NOTICE,
            stderr_to_stdout=True,
            # srun does not take the number from sbatch
            srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={cpus}"],
            wckey=None,
            additional_parameters=_sbatch_options(config),
        )
        try:
            with redirect_stderr(io.StringIO()), executor.batch():
                submitted = [
                    executor.submit(_task, self.main, job.write_config(), job.log) for job in jobs
                ]
        except (
            submitit.core.utils.FailedJobError,
            submitit.core.utils.FailedSubmissionError,
        ) as error:
            lines = str(error).splitlines() or ["no reason given"]
            self._submit_fewer(jobs, f"SLURM refuses the jobs: {lines[-1]}")
            return
        for job, slurm_job in zip(jobs, submitted, strict=True):
            job.handle = slurm_job.job_id
            job.state = "queued"
            write_atomically(job.directory.path / "slurm_job", slurm_job.job_id.encode())

    def _submit_fewer(self, jobs: list[Job], why: str) -> None:
        """Submit half of the jobs that were refused, as there may be a limit on arrays or jobs, and
        the others later.

        Raises:
            Refused: Not even one is accepted, though no other job of this study is in the queue.
        """
        half = len(jobs) // 2
        if half:
            self._submit(jobs[:half])
        elif not any(job.handle for job in self.jobs.values()):
            raise Refused(why)
        for job in jobs[half:]:
            job.not_before = time.monotonic() + RESUBMIT_SECONDS
        self._say_once(f"{why}; tried again every {RESUBMIT_SECONDS:.0f} s")


def _cores_of_a_task(config: RunConfig) -> int:
    return config.train.threads + config.runtime.workers


def _sbatch_options(config: RunConfig) -> dict[str, Any]:
    """The options of sbatch for which submitit has no name; those of ``launcher.options`` come last
    and win.
    """
    launcher = config.launcher
    options = {
        "gpus_per_node": launcher.gpus,
        "mem": f"{launcher.memory}G" if launcher.memory else "",
        "partition": launcher.partition,
        "account": launcher.account,
        "requeue": True,
    }
    for option in launcher.options:
        name, value = option.split("=", 1)
        options[name] = value
    return {name: value for name, value in options.items() if value}


def _folder(config: RunConfig) -> Path:
    """The folder in which submitit keeps what it submits."""
    return (Path(config.runtime.outputs) / "slurm").resolve()


def _last_job(job: Job) -> tuple[str, int]:
    """Number of the run's last job (empty where it had none), and the exit code that the job left
    (-1 where it left none).
    """
    try:
        number, *code = (job.directory.path / "slurm_job").read_text("utf-8").split()
    except FileNotFoundError:
        return "", -1
    if not code:
        return number, -1
    return number, int(code[0])


def _squeue() -> dict[str, str] | None:
    """The state of each of the user's jobs in the queue, by number; None while SLURM does not
    answer.
    """
    done = subprocess.run(
        ["squeue", "--me", "--array", "--noheader", "--format=%i %T"],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        return None
    return dict(line.split() for line in done.stdout.splitlines())


def _task(main: Main, argv: list[str], log: Path) -> NoReturn:
    """Body of a job, which runs in one process for each device.

    SLURM's notice, SIGUSR2, comes before the job's time is over: the run is stopped by SIGTERM, as
    others are, and the job is put back into the queue.
    """
    first = os.environ["SLURM_PROCID"] == "0"
    # inherited from the user's shell, it would be the same for all jobs on a node
    os.environ.pop("MASTER_PORT", None)
    if first:
        print_to(log)
    process = os.getpid()
    notified = False

    def on_notice(number: int, frame: FrameType | None) -> None:
        nonlocal notified
        # a loader worker: SLURM sends the signal to every process of a job
        if os.getpid() != process:
            return
        notified = True
        handles_sigterm = signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        if handles_sigterm:
            os.kill(os.getpid(), signal.SIGTERM)
        else:  # it has not begun to train
            requeue()

    def requeue() -> None:
        if first:
            number = os.environ["SLURM_JOB_ID"]
            subprocess.run(["scontrol", "requeue", number], check=True)
            time.sleep(CANCEL_SECONDS)  # SLURM ends this process

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, on_notice)
    try:
        code = main(argv)
    except Exception:  # a defect of ours, whose traceback belongs into the log
        traceback.print_exc()
        code = FAILED
    if notified and code == INTERRUPTED:
        requeue()
    if first:
        _leave_outcome(code, log)
    # A task that exits with a code other than 0 ends the job's other tasks. After a signal the
    # first one must not be ended, since it still has to write the outcome.
    leave_first_alone = not first and code == INTERRUPTED
    sys.exit(0 if leave_first_alone else code)


def _leave_outcome(code: int, log: Path) -> None:
    """Write a job's number, its exit code and why it failed into the run's directory, as its
    coordinator may be gone.
    """
    if code in (FAILED, BAD_INPUT):
        note_failure(log)
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    number = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
    write_atomically(log.with_name("slurm_job"), f"{number} {code}".encode())
