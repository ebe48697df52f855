"""Launch runs as job arrays of SLURM, through submitit; the outputs and the code must lie in a
folder that all nodes see.

Before SLURM preempts a job, and before the job's time is over, it sends SIGUSR2: the run writes a
checkpoint, and the job goes back into the queue and continues later. What the jobs are doing is
asked of squeue, since many clusters keep no accounts for sacct. Jobs outlive a coordinator (the
process of ``xceptlab study``) that is killed; the next one finds their numbers in the runs'
directories.
"""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from lightning_utilities.core.imports import RequirementCache

from xceptlab.config.schema import RunConfig
from xceptlab.errors import BAD_INPUT, FAILED, INTERRUPTED, Refused
from xceptlab.files import write_atomically, write_once
from xceptlab.launch.child import call, print_to
from xceptlab.launch.failures import note_failure
from xceptlab.launch.launcher import Job, Launcher, Main, check_gpus, cores_of_a_process

NOTICE = 90
"""Seconds before the end of its time at which SLURM sends a job SIGUSR2."""
CANCEL_SECONDS = 40.0
"""Seconds that cancelled jobs get to end by themselves before they are killed. SLURM itself kills
them after its KillWait, by default 30 s.
"""
RESUBMIT_SECONDS = 60.0
"""Seconds until jobs that SLURM refused are submitted again."""


class Slurm(Launcher):
    """Launches runs as jobs of SLURM, with the resources that their configuration asks for.

    Args:
        main: ``xceptlab``'s main function, which a run's process calls.
        max_jobs: Largest number of runs at a time; None for as many as there is room for.

    Raises:
        Refused: submitit is not installed, or SLURM is not here.
    """

    pause = 5.0
    outlived = True

    def __init__(self, main: Main, max_jobs: int | None) -> None:
        super().__init__(main, max_jobs)
        if not RequirementCache("submitit"):
            raise Refused(
                "launcher.name: slurm needs submitit, which is not installed (pip install 'xceptlab[slurm]')"
            )
        if not shutil.which("sbatch"):
            raise Refused("launcher.name: slurm needs SLURM, and there is no command sbatch here")
        self._queue: dict[str, str] | None = None
        """What SLURM answered last: the state of each of the user's jobs by its number; None where
        it did not answer, or was not asked yet.
        """

    def check(self, config: RunConfig) -> None:
        check_gpus(config)

    def _ready(self) -> Iterator[Job]:
        """Yield the waiting runs that can start as soon as there is room. Runs whose jobs an
        earlier coordinator has submitted, and SLURM still has in its queue, are taken over first
        and not submitted again.
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
        # All jobs of an array must ask for the same nodes, devices and cores.
        arrays = defaultdict(list)
        for job in ready:
            runtime = job.config.runtime
            arrays[runtime.num_nodes, runtime.devices, cores_of_a_process(job.config)].append(job)
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
        finally:
            subprocess.run(["scancel", "--quiet", "--signal=KILL", *numbers], check=False)

    def _submit(self, jobs: list[Job]) -> None:
        """Submit runs as one job array, and write each one's job number into its directory. If
        SLURM refuses the array, fewer runs are submitted, and the others wait.

        Args:
            jobs: At least one run; all ask for the same nodes, devices and cores.

        Raises:
            Refused: Not even one job is accepted, though no other one of this study is in the
                queue.
        """
        import submitit

        config = jobs[0].config
        cpus = cores_of_a_process(config)
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
            # srun does not take the number of cores from sbatch.
            srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={cpus}"],
            wckey=None,
            additional_parameters=_sbatch_options(config),
        )
        for job in jobs:
            # Whatever is there after the submission has been left by the new job.
            (job.directory.path / "slurm_job").unlink(missing_ok=True)
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
            write_once(job.directory.path / "slurm_job", slurm_job.job_id.encode())

    def _submit_fewer(self, jobs: list[Job], why: str) -> None:
        """Submit half of the jobs that SLURM has refused, and let the others wait: there may be a
        limit on the size of arrays or on the number of jobs.

        Args:
            jobs: The jobs that were refused.
            why: SLURM's reason, for the user.

        Raises:
            Refused: Not even one job is accepted, though no other one of this study is in the
                queue.
        """
        half = len(jobs) // 2
        if half:
            self._submit(jobs[:half])
        elif not any(job.handle for job in self.jobs.values()):
            raise Refused(why)
        for job in jobs[half:]:
            job.not_before = time.monotonic() + RESUBMIT_SECONDS
        self._say_once(f"{why}; tried again every {RESUBMIT_SECONDS:.0f} s")


def _sbatch_options(config: RunConfig) -> dict[str, Any]:
    """Return the options of sbatch, by name with ``_`` for ``-``, that submitit is given as
    additional parameters: ``gpus_per_node``, ``mem``, ``partition`` and ``account`` from the keys
    of ``launcher``, ``requeue``, and all of ``launcher.options``. One of ``launcher.options``
    replaces another option only if their names are equal: ``gpus-per-node`` does, while
    ``mem-per-cpu`` does not replace ``mem``. Options with an empty value, and 0 GPUs, are left out.
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
        # sbatch writes gpus-per-node what is gpus_per_node here.
        options[name.replace("-", "_")] = value
    return {name: value for name, value in options.items() if value}


def _folder(config: RunConfig) -> Path:
    """Return the folder in which submitit keeps what it submits."""
    return (Path(config.runtime.outputs) / "slurm").resolve()


def _last_job(job: Job) -> tuple[str, int]:
    """Read from a run's directory which job it had last, and how that one ended.

    Returns:
        The job's number, empty where the run had none; and the job's exit code, -1 where the job
        left none.
    """
    try:
        number, *code = (job.directory.path / "slurm_job").read_text("utf-8").split()
    except FileNotFoundError:
        return "", -1
    if not code:
        return number, -1
    return number, int(code[0])


def _squeue() -> dict[str, str] | None:
    """Return the state of each of the user's jobs in the queue, such as ``RUNNING``, by the job's
    number; None where SLURM does not answer.
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
    """Train a run and exit with its exit code: the body of a job, which is executed in one process
    for each device. Only the first process prints to ``log``. The others exit with 0 in place of
    ``INTERRUPTED``.

    SLURM's notice, SIGUSR2, comes before the job's time is over: the run is stopped by SIGTERM, as
    others are, and the job is put back into the queue. A run that has not begun to train is put
    back without that.
    """
    first = os.environ["SLURM_PROCID"] == "0"
    # A port from the user's shell would be the same for all jobs on a node.
    os.environ.pop("MASTER_PORT", None)
    if first:
        print_to(log)
    process = os.getpid()
    notified = False

    def on_notice(number: int, frame: FrameType | None) -> None:
        nonlocal notified
        # SLURM sends the signal to every process of a job, loader workers among them.
        if os.getpid() != process:
            return
        notified = True
        handles_sigterm = signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        if handles_sigterm:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            # The run has not begun to train, so there is nothing to be saved.
            requeue()

    def requeue() -> None:
        if first:
            number = os.environ["SLURM_JOB_ID"]
            subprocess.run(["scontrol", "requeue", number], check=True)
            # SLURM ends this process meanwhile.
            time.sleep(CANCEL_SECONDS)

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, on_notice)
    code = call(main, argv)
    if notified and code == INTERRUPTED:
        requeue()
    if first:
        _leave_outcome(code, log)
    # With srun's --kill-on-bad-exit, which `_submit` asks for, a task that exits with a code other
    # than 0 ends the job's other tasks. After a stop signal all but the first exit with 0, so that
    # the first one can still write the outcome.
    leave_first_alone = not first and code == INTERRUPTED
    sys.exit(0 if leave_first_alone else code)


def _leave_outcome(code: int, log: Path) -> None:
    """Write this job's number and its exit ``code`` into slurm_job in the run's directory, where
    the next coordinator finds them: the present one may be gone. Where the code is ``FAILED`` or
    ``BAD_INPUT``, also write why the run failed, by its ``log``, into failure.txt there.
    """
    if code in (FAILED, BAD_INPUT):
        note_failure(log)
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    number = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
    write_atomically(log.with_name("slurm_job"), f"{number} {code}".encode())
