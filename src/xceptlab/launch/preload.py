"""Imported by the fork server before it forks runs: loads what every run needs, so that a run
starts in 0.2 s.
"""

import contextlib
import signal

# a terminal's Ctrl-C is for the coordinator, which ends the server
_before = signal.signal(signal.SIGINT, signal.SIG_IGN)

from xceptlab.runs.world import forget  # noqa: E402

forget()  # Lightning reads ranks when it is imported, and the runs have the server's environment

import sklearn.datasets  # noqa: E402, F401

from xceptlab.config.loading import load_run  # noqa: E402
from xceptlab.models.cost import cost  # noqa: E402
from xceptlab.training import weights_and_biases  # noqa: E402
from xceptlab.training.train import git_state  # noqa: E402

git_state()  # cached for the records of all runs: the state of the code that is loaded here
defaults = load_run([])
# the first call of each process takes half a second longer
cost(defaults.model, defaults.data.classes, defaults.data.size)
with contextlib.suppress(Exception):  # a study goes on with a broken W&B
    if weights_and_biases.WANDB:
        weights_and_biases.client()
signal.signal(signal.SIGINT, _before)
