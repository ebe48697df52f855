"""Find out which of a run's processes this one is, by what its starter has put into the environment.

A run has ``runtime.devices`` times ``runtime.num_nodes`` processes, its world. What other launchers
and schedulers leave in the environment, such as RANK in a shell or SLURM_PROCID in one of several
tasks that train a seed each, says nothing about it.
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import Literal

from xceptlab.config.schema import RuntimeConfig
from xceptlab.errors import BAD_INPUT, Refused
from xceptlab.signals import PARENT, started_by_parent

VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK"),
    *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE"),
    *("TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_NPROCS"),
    *("SLURM_NTASKS_PER_NODE", "SLURM_TASKS_PER_NODE", "SLURM_STEP_ID", "SLURM_STEPID"),
    *("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES", "SLURM_STEP_TASKS_PER_NODE"),
    *("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_LOCAL_RANK", "JSM_NAMESPACE_SIZE"),
    *(
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "PMI_RANK",
        "PMI_SIZE",
    ),
)
"""Environment variables by which launchers and schedulers tell a process its place among others,
and which libraries read when they are imported.
"""

EXPLANATION_SECONDS = 10.0
"""Seconds that torchrun's other processes on a machine wait before they end, so that the first one
can say what is wrong.
"""


@dataclass(frozen=True, kw_only=True)
class World:
    """Place of this process among the processes of its run."""

    starter: Literal["itself", "first process", "torchrun", "srun"] = "itself"
    """What started this process as one of its run's: the run's ``first process``, ``torchrun`` or
    ``srun``. ``itself`` stands for none of them: a user or a launcher started the run with this
    process, which is the first, and starts the others.
    """
    size: int = 1
    """Number of processes of the run, on all machines."""
    rank: int = 0
    """Number of this process among all of them, from 0."""
    local_rank: int = 0
    """Number of this process among those of its machine, from 0, which is also the number of its
    device.
    """
    node_rank: int = 0
    """Number of this process's machine, from 0."""
    other_tasks: int = 0
    """Number of tasks that srun has started, this one among them, if there are several and they are
    not the processes of one run; else 0. They may train a seed each, so this is no error.
    """

    @classmethod
    def join(cls, runtime: RuntimeConfig) -> "World":
        """Return the place of this process among those of the run.

        Where the environment has variables that describe other processes than those of the run,
        they are removed, so that no library reads them.

        Raises:
            Refused: torchrun has started another number of processes on a machine than
                ``runtime.devices``, or on another number of machines than ``runtime.num_nodes``;
                srun has started the run's processes on another number of nodes; or a run on several
                machines is started by neither.
        """
        size = runtime.devices * runtime.num_nodes
        if _started_by_torchrun():
            _check_torchrun(runtime)
            return cls._started_by("torchrun", size, "RANK", "LOCAL_RANK", "GROUP_RANK")
        if size > 1 and started_by_parent() and "LOCAL_RANK" in os.environ:
            return cls(
                starter="first process",
                size=size,
                rank=_number("LOCAL_RANK"),
                local_rank=_number("LOCAL_RANK"),
            )
        if size > 1 and _started_by_srun(runtime):
            return cls._started_by("srun", size, "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
        if runtime.num_nodes > 1:
            raise Refused(
                f"runtime.num_nodes: {runtime.num_nodes} is not allowed here; a run on several machines is started by torchrun, "
                f"or by srun with {runtime.devices} tasks on each of {runtime.num_nodes} nodes, as launcher.name slurm does"
            )
        tasks = _tasks_of_srun()
        # A process that has started others of this run before keeps its variables: the others are
        # still there.
        has_started_others = os.environ.get(PARENT) == str(os.getpid())
        if not has_started_others:
            forget()
        return cls(size=size, other_tasks=tasks if tasks > 1 else 0)

    @classmethod
    def _started_by(
        cls,
        starter: Literal["torchrun", "srun"],
        size: int,
        rank: str,
        local_rank: str,
        node_rank: str,
    ) -> "World":
        """Return the place of this process, which ``starter`` has started, in a run of ``size``
        processes. The other arguments are the names of the environment's variables that hold the
        three numbers.
        """
        return cls(
            starter=starter,
            size=size,
            rank=_number(rank),
            local_rank=_number(local_rank),
            node_rank=_number(node_rank),
        )

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes the run's files and prints."""
        return self.rank == 0

    @property
    def why_busy(self) -> str:
        """What may explain that another process is training the run: a clause that begins with
        ``;``, to be appended to that error's message. It is empty unless srun has started tasks
        that are not the processes of one run.
        """
        if not self.other_tasks:
            return ""
        processes = "1 process" if self.size == 1 else f"{self.size} processes"
        return f"; srun started {self.other_tasks} tasks and the run needs {processes} (runtime.devices times runtime.num_nodes)"


def forget() -> None:
    """Remove the variables named in ``VARIABLES`` from the environment, so that no library takes
    this process, or one that it starts, for one of those of a launcher or scheduler.
    """
    for name in VARIABLES:
        os.environ.pop(name, None)


def _number(name: str) -> int:
    """Return the whole number that a variable of the environment holds; 0 where it holds none."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else 0


def _started_by_torchrun() -> bool:
    """Whether torchrun started this process, by the variables that it gives to a process: its run's
    id, and the ranks, sizes and port as whole numbers, are all in the environment.
    """
    numbers = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    return "TORCHELASTIC_RUN_ID" in os.environ and all(
        os.environ.get(name, "").isdecimal() for name in numbers
    )


def _check_torchrun(runtime: RuntimeConfig) -> None:
    """Check that a run is configured for as many processes on each machine, and for as many
    machines, as torchrun has started.

    Raises:
        Refused: The numbers differ. This is raised at once in the first process of a machine, and
            ``EXPLANATION_SECONDS`` later in the others: when one has ended, torchrun ends all of
            them, and only the first is to say why.
        SystemExit: In one of the others: torchrun has ended it, by SIGTERM, while it waited. Its
            exit code is ``BAD_INPUT``.
    """
    processes, per_machine = _number("WORLD_SIZE"), _number("LOCAL_WORLD_SIZE")
    machines = processes // max(1, per_machine)
    configured_and_started = {
        "runtime.devices": (runtime.devices, per_machine),
        "runtime.num_nodes": (runtime.num_nodes, machines),
    }
    wrong = {
        key: numbers for key, numbers in configured_and_started.items() if numbers[0] != numbers[1]
    }
    if not wrong:
        return
    if _number("LOCAL_RANK") > 0:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(BAD_INPUT))
        time.sleep(EXPLANATION_SECONDS)
    plural = "" if processes == 1 else "es"
    where = f" on {machines} machines" if machines > 1 else ""
    configuration = " and ".join(f"{key} is {configured}" for key, (configured, _) in wrong.items())
    options = " ".join(f"--{key} {started}" for key, (_, started) in wrong.items())
    raise Refused(
        f"torchrun started {processes} process{plural}{where} and {configuration}; give {options}"
    )


def _tasks_of_srun() -> int:
    """Return the number of tasks in the step of SLURM to which this process belongs; 0 for a
    process that is no task.

    A shell in an allocation is no such task, though it sees the allocation's variables: srun gives
    a terminal to a shell, and sbatch starts a script in no numbered step.
    """
    in_a_step = (
        os.environ.get("SLURM_STEP_ID", "").isdecimal() and "SLURM_PTY_PORT" not in os.environ
    )
    return _number("SLURM_STEP_NUM_TASKS") if in_a_step else 0


def _started_by_srun(runtime: RuntimeConfig) -> bool:
    """Whether this process is one of exactly as many tasks of a step of SLURM as the run needs.

    Raises:
        Refused: The tasks are on another number of nodes than the run is configured for.
    """
    if _tasks_of_srun() != runtime.devices * runtime.num_nodes:
        return False
    nodes = _number("SLURM_STEP_NUM_NODES")
    if nodes != runtime.num_nodes:
        raise Refused(
            f"srun started the tasks on {nodes} nodes and runtime.num_nodes is {runtime.num_nodes}; "
            f"give --runtime.num_nodes {nodes} and as many tasks on each node as runtime.devices"
        )
    return True


def count_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
