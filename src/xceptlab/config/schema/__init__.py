"""What a run is: its configuration, what is allowed in it, and the identity that follows from it.

Every field is explained where it stands; these texts are also the help of the command line.
*Science* fields (model, data, train, seed) can change a result and make up the identity of a run;
*runtime* fields (runtime, launcher) must not and do not. Each section has a file of its own, and
``run`` puts them together.
"""

from xceptlab.config.schema.data import DataConfig
from xceptlab.config.schema.model import ModelConfig
from xceptlab.config.schema.run import RunConfig
from xceptlab.config.schema.runtime import LauncherConfig, RuntimeConfig
from xceptlab.config.schema.train import TrainConfig

__all__ = [
    "DataConfig",
    "LauncherConfig",
    "ModelConfig",
    "RunConfig",
    "RuntimeConfig",
    "TrainConfig",
]
