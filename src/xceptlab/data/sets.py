"""The data sets by name: each is a module of four functions.

- ``locate(config)`` raises where files are missing.
- ``load(config)`` gives the training and the test source and, where the images to validate on are a part of their own, theirs.
- ``class_names(config)``: the names of the classes, by label; empty where the files do not tell.
- ``files(config)``: how the files lie and a digest of their names and sizes; empty where there are none.
"""

from types import ModuleType

from xceptlab.data import cifar, digits, imagenet

SETS: dict[str, ModuleType] = {
    "digits": digits, "cifar10": cifar, "cifar100": cifar, "imagenet": imagenet, "folder": imagenet
}  # fmt: skip
