"""Runs as Ray's tasks; the outputs and the code are in a folder that all nodes see.

A run whose node is lost is started again, where Ray finds room for it, and continues from its last checkpoint.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from lightning_utilities.core.imports import RequirementCache

from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused
from xceptlab.launch.launcher import CHECKPOINT_SECONDS, LOST, Job, Launcher, Main, check_gpus, check_one_node, execute


class Ray(Launcher):
    """Runs as tasks of a Ray cluster, as the ``launcher`` section of their configuration asks for them."""

    def __init__(self, main: Main, jobs: int | None, address: str) -> None:
        super().__init__(main, jobs)
        if not RequirementCache("ray"):
            raise Refused("launcher.name: ray needs Ray, which is not installed (pip install 'xceptlab[ray]')")
        import ray

        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise Refused(f"launcher.address: there is no Ray cluster at {address!r}: {' '.join(str(error).split())}") from None
        self.ray = ray

    def check(self, config: RunConfig) -> None:
        check_gpus(config)
        check_one_node(config)
        needs, nodes = _needs(config), [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= needs[name] for name in needs) for node in nodes):
            self._tell(f"a run needs {needs}, and no node of the Ray cluster has that: it waits for one")

    def begin(self, ready: Iterator[Job]) -> None:
        for job in ready:
            config = job.config
            task = self.ray.remote(max_calls=1)(_task).options(  # a process of its own
                max_retries=0,  # we know better what is to be tried again
                num_cpus=_needs(config)["CPU"],
                num_gpus=config.launcher.gpus,
                memory=_needs(config)["memory"] or None,
            )
            arguments = job.prepare(), job.log, os.getcwd(), config.launcher.gpus, config.runtime.devices > 1
            job.handle, job.state = task.remote(self.main, *arguments), "queued"

    def exit_codes(self, jobs: list[Job]) -> dict[str, int]:
        codes = {}
        for job in jobs:
            if self.ray.wait([job.handle], timeout=0)[0]:
                try:
                    codes[job.config.run_id] = self.ray.get(job.handle)
                except self.ray.exceptions.NodeDiedError:
                    codes[job.config.run_id] = LOST
                except self.ray.exceptions.RayError:  # its process is lost, or it raised
                    codes[job.config.run_id] = -1
            else:
                job.state = "running" if job.watch.look() else "queued"
        return codes

    def stop(self) -> None:
        tasks = [job.handle for job in self.jobs.values() if job.handle]
        try:
            for task in tasks:
                self.ray.cancel(task)
            if tasks:
                self.ray.wait(tasks, num_returns=len(tasks), timeout=CHECKPOINT_SECONDS)
        finally:  # also when this is interrupted
            for task in tasks:
                self.ray.cancel(task, force=True)


def _needs(config: RunConfig) -> dict[str, int]:
    """What a run takes of one node, by Ray's names; memory in bytes."""
    cpus = config.runtime.devices * (config.train.threads + config.runtime.workers)
    return {"CPU": cpus, "GPU": config.launcher.gpus, "memory": config.launcher.memory * 2**30}


def _task(main: Main, argv: list[str], log: Path, folder: str, gpus: int, fresh: bool) -> int:
    """What a task does, in a process of its own."""
    os.chdir(folder)  # the coordinator's, from which its paths count
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return execute(main, argv, log, fresh=fresh)
