"""Launch runs as tasks of Ray; the outputs and the code must lie in a folder that all nodes see.

A run whose node is lost is started again, where Ray finds room for it, and continues from its last
checkpoint.
"""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from lightning_utilities.core.imports import RequirementCache

from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused
from xceptlab.launch.child import execute
from xceptlab.launch.launcher import (
    CHECKPOINT_SECONDS,
    LOST,
    Job,
    Launcher,
    Main,
    check_gpus,
    check_one_node,
    cores_of_a_process,
)


class Ray(Launcher):
    """Launches runs as tasks of a Ray cluster, with the resources that their configuration asks
    for.

    Args:
        main: ``xceptlab``'s main function, which a run's process calls.
        max_jobs: Largest number of runs at a time; None for as many as there is room for.
        address: Address of the cluster, as ``ray.init`` takes it.

    Raises:
        Refused: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, main: Main, max_jobs: int | None, address: str) -> None:
        super().__init__(main, max_jobs)
        if not RequirementCache("ray"):
            raise Refused(
                "launcher.name: ray needs Ray, which is not installed (pip install 'xceptlab[ray]')"
            )
        import ray

        try:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                ignore_reinit_error=True,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise Refused(
                f"launcher.address: there is no Ray cluster at {address!r}: {reason}"
            ) from None
        self.ray = ray

    def check(self, config: RunConfig) -> None:
        check_gpus(config)
        check_one_node(config)
        needs = _resources(config)
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

        def fits(node: dict[str, float]) -> bool:
            return all(node.get(name, 0) >= amount for name, amount in needs.items())

        if not any(map(fits, nodes)):
            self._say_once(
                f"a run needs {needs}, and no node of the Ray cluster has that: it waits for one"
            )

    def begin(self, ready: Iterator[Job]) -> None:
        # A process is used for one call, so that every run has a process of its own.
        remote = self.ray.remote(max_calls=1)(_task)
        for job in ready:
            needs = _resources(job.config)
            task = remote.options(
                # The launcher decides what is tried again.
                max_retries=0,
                num_cpus=needs["CPU"],
                num_gpus=needs["GPU"],
                memory=needs["memory"] or None,
            )
            fresh = job.config.runtime.devices > 1
            job.handle = task.remote(
                self.main, job.write_config(), job.log, os.getcwd(), needs["GPU"], fresh
            )
            job.state = "queued"

    def exit_codes(self, jobs: list[Job]) -> dict[str, int]:
        codes = {}
        for job in jobs:
            ended, _ = self.ray.wait([job.handle], timeout=0)
            if ended:
                codes[job.config.run_id] = self._exit_code(job)
            else:
                job.state = "running" if job.watch.holders() else "queued"
        return codes

    def _exit_code(self, job: Job) -> int:
        """Return the exit code of a run whose task has ended: ``LOST`` where its node died, -1
        where its process is gone or the task has raised an error.
        """
        try:
            return self.ray.get(job.handle)
        except self.ray.exceptions.NodeDiedError:
            return LOST
        except self.ray.exceptions.RayError:
            # The task's process is gone, or the task has raised an error.
            return -1

    def stop(self) -> None:
        tasks = [job.handle for job in self.jobs.values() if job.handle]
        try:
            for task in tasks:
                self.ray.cancel(task)
            if tasks:
                self.ray.wait(tasks, num_returns=len(tasks), timeout=CHECKPOINT_SECONDS)
        finally:
            for task in tasks:
                self.ray.cancel(task, force=True)


def _resources(config: RunConfig) -> dict[str, int]:
    """Return what a run needs of one node, by Ray's names of resources; memory is in bytes, 0 where
    the configuration asks for none.
    """
    cpus = config.runtime.devices * cores_of_a_process(config)
    return {"CPU": cpus, "GPU": config.launcher.gpus, "memory": config.launcher.memory * 2**30}


def _task(main: Main, argv: list[str], log: Path, folder: str, gpus: int, fresh: bool) -> int:
    """Train a run and return its exit code: the body of a task, which has a process of its own.

    Args:
        main: ``xceptlab``'s main function.
        argv: Arguments of ``main``.
        log: File of the run's output.
        folder: The coordinator's working directory, where relative paths of the configuration
            begin.
        gpus: Number of GPUs of the run; with 0 it sees none.
        fresh: Whether to train in a new interpreter, whose command Lightning can execute again for
            each further device, rather than in this process.
    """
    os.chdir(folder)
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Ray cancels a task by a simulated SIGINT, which the processes of a cluster that was started in
    # the background ignore.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return execute(main, argv, log, fresh=fresh)
