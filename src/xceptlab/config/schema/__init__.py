"""What a run is: its configuration, what is allowed in it, and the identity that follows from it.

The docstring below a field explains it; the help of the command line shows the same text. *Science*
fields (``model``, ``data``, ``train``, ``seed``) can change a result and make up a run's identity,
except for those with the metadata ``NO_IDENTITY`` or ``LOCATION``, such as the data's folder.
*Runtime* fields (``runtime``, ``launcher``) must not change a result and are no part of the
identity. ``runtime`` and ``launcher`` share a module, every other section has its own, and ``run``
puts them together.
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
