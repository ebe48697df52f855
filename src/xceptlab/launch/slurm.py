"""Runs as SLURM's job arrays, through submitit; the outputs and the code are in a folder that all nodes see.

Before it preempts a job, or its time is over, SLURM sends SIGUSR2: the run writes a checkpoint, and the job goes back into the
queue and continues. What the jobs are doing is asked of squeue, since many clusters keep no accounts for sacct. Jobs outlive a
coordinator that is killed; the next one finds their numbers in the runs' directories.
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
from typing import NoReturn

from lightning_utilities.core.imports import RequirementCache

from xceptlab.config.schema import RunConfig
from xceptlab.errors import BAD_INPUT, FAILED, INTERRUPTED, Refused
from xceptlab.files import write_atomically
from xceptlab.launch.launcher import Job, Launcher, Main, check_gpus, note_failure, print_to

NOTICE = 90
"""Seconds before the end of its time at which a job is told."""
CANCEL_SECONDS = 40.0
"""What cancelled jobs get; SLURM itself kills after its KillWait, 30 s."""
AGAIN = 60.0
"""Seconds until jobs that SLURM refused are submitted again."""


class Slurm(Launcher):
    """Runs as jobs of SLURM, as the ``launcher`` section of their configuration asks for them."""

    pause = 5.0
    outlived = True

    def __init__(self, main: Main, jobs: int | None) -> None:
        super().__init__(main, jobs)
        if not RequirementCache("submitit"):
            raise Refused("launcher.name: slurm needs submitit, which is not installed (pip install 'xceptlab[slurm]')")
        if not shutil.which("sbatch"):
            raise Refused("launcher.name: slurm needs SLURM, and there is no command sbatch here")
        self._queue: dict[str, str] | None = None

    def check(self, config: RunConfig) -> None:
        check_gpus(config)

    def _ready(self) -> Iterator[Job]:
        for job in self.jobs.values():
            if job.state == "waiting" and (number := _last_job(job)[0]) in (self._queue or {}):  # of a coordinator that is gone
                job.handle, job.state = number, "queued"
        return super()._ready()

    def begin(self, ready: Iterator[Job]) -> None:
        if self._queue is None:
            return
        groups = defaultdict(list)
        for job in ready:
            runtime = job.config.runtime
            groups[runtime.num_nodes, runtime.devices, job.config.train.threads + runtime.workers].append(job)
        for jobs in groups.values():
            self._submit(jobs)

    def exit_codes(self, jobs: list[Job]) -> dict[str, int]:
        self._queue = _squeue()
        codes: dict[str, int] = {}
        if self._queue is None:
            return codes
        for job in jobs:
            state = self._queue.get(job.handle)
            if state is None:
                codes[job.config.run_id] = _last_job(job)[1]
            else:
                job.state = "running" if state in ("RUNNING", "COMPLETING") else "queued"
        return codes

    def stop(self) -> None:
        if not (numbers := [job.handle for job in self.jobs.values() if job.handle]):
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
        import submitit

        config = jobs[0].config
        asked, runtime = config.launcher, config.runtime
        cpus = config.train.threads + runtime.workers
        executor = submitit.SlurmExecutor(_folder(config))
        wanted = {"gpus_per_node": asked.gpus, "mem": f"{asked.memory}G" if asked.memory else "", "partition": asked.partition}
        wanted |= {"account": asked.account, "requeue": True, **dict(option.split("=", 1) for option in asked.options)}
        executor.update_parameters(
            job_name="xceptlab",
            time=asked.minutes,
            nodes=runtime.num_nodes,
            ntasks_per_node=runtime.devices,
            cpus_per_task=cpus,
            array_parallelism=len(jobs),
            signal_delay_s=NOTICE,
            stderr_to_stdout=True,
            srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={cpus}"],  # srun does not take it from sbatch
            wckey=None,
            additional_parameters={option: value for option, value in wanted.items() if value},
        )
        try:
            with redirect_stderr(io.StringIO()), executor.batch():
                submitted = [executor.submit(_task, self.main, job.prepare(), job.log) for job in jobs]
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            self._refused(jobs, f"SLURM refuses the jobs: {(str(error).splitlines() or ['no reason given'])[-1]}")
            return
        for job, one in zip(jobs, submitted, strict=True):
            job.handle, job.state = one.job_id, "queued"
            write_atomically(job.directory.path / "slurm_job", one.job_id.encode())

    def _refused(self, jobs: list[Job], why: str) -> None:
        """Ask for half of them, as there may be a limit on arrays or jobs, and for the others later.

        Raises:
            Refused: Not even one is accepted, though no other job of this study is in the queue.
        """
        half = len(jobs) // 2
        if half:
            self._submit(jobs[:half])
        elif not any(job.handle for job in self.jobs.values()):
            raise Refused(why)
        for job in jobs[half:]:
            job.not_before = time.monotonic() + AGAIN
        self._tell(f"{why}; tried again every {AGAIN:.0f} s")


def _folder(config: RunConfig) -> Path:
    """Where submitit keeps the jobs."""
    return (Path(config.runtime.outputs) / "slurm").resolve()


def _last_job(job: Job) -> tuple[str, int]:
    """The number of the run's last job, and the exit code that it left."""
    try:
        number, *code = (job.directory.path / "slurm_job").read_text("utf-8").split()
    except FileNotFoundError:
        return "", -1
    return number, int(code[0]) if code else -1


def _squeue() -> dict[str, str] | None:
    """The state of each of the user's jobs in the queue, by number; None while SLURM does not answer."""
    done = subprocess.run(
        ["squeue", "--me", "--array", "--noheader", "--format=%i %T"], capture_output=True, encoding="utf-8", check=False
    )
    return None if done.returncode else dict(line.split() for line in done.stdout.splitlines())


def _task(main: Main, argv: list[str], log: Path) -> NoReturn:
    """What a job does, once per device."""
    first = os.environ["SLURM_PROCID"] == "0"
    os.environ.pop("MASTER_PORT", None)  # a shell's, which all jobs on a node would share
    if first:
        print_to(log)
    process, told = os.getpid(), False

    def notice(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if os.getpid() != process:  # a loader worker: SLURM tells every process of a job
            return
        told = True
        if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
            os.kill(os.getpid(), signal.SIGTERM)
        else:  # it has not begun to train
            requeue()

    def requeue() -> None:
        if first:
            number = os.environ["SLURM_JOB_ID"]
            subprocess.run(["scontrol", "requeue", number], check=True)
            time.sleep(CANCEL_SECONDS)  # SLURM ends this process

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, notice)
    try:
        code = main(argv)
    except Exception:  # a defect
        traceback.print_exc()
        code = FAILED
    if told and code == INTERRUPTED:
        requeue()
    if first and code in (FAILED, BAD_INPUT):
        note_failure(log)  # the coordinator may be gone
    if first:
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        number = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
        write_atomically(log.with_name("slurm_job"), f"{number} {code}".encode())
    # A code also ends the other tasks; the first one, which tells the outcome, may need some time for that after a signal.
    sys.exit(code if first or code != INTERRUPTED else 0)
