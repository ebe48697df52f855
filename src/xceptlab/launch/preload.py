"""Loads what every run needs. The fork server of ``launch.local`` imports this module before it
forks runs, so that a run starts in 0.2 s.
"""

import contextlib
import signal

# A terminal's Ctrl-C is for the coordinator, which ends the server.
_before = signal.signal(signal.SIGINT, signal.SIG_IGN)

from xceptlab.runs.world import forget  # noqa: E402

# Lightning reads ranks when it is imported, and the runs inherit the server's environment.
forget()

import sklearn.datasets  # noqa: E402, F401

from xceptlab.config.loading import load_run  # noqa: E402
from xceptlab.models.cost import cost  # noqa: E402
from xceptlab.training import weights_and_biases  # noqa: E402
from xceptlab.training.provenance import git_state  # noqa: E402

# The state of the code that is loaded here is cached for the records of all runs.
git_state()
defaults = load_run([])
# The first call in a process takes half a second longer, which the runs are spared.
cost(defaults.model, defaults.data.classes, defaults.data.size)
# A study goes on where W&B is broken.
with contextlib.suppress(Exception):
    if weights_and_biases.WANDB:
        weights_and_biases.client()
signal.signal(signal.SIGINT, _before)
