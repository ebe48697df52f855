"""The data sets by name. Each is a module of four functions of the configuration:

- ``require_files`` raises a ``Refused`` where files are missing, and fetches them where ``data.download`` allows it.
- ``load`` gives the training and the test source and, where the images to validate on have files of their own, their source.
- ``class_names`` gives the names of the classes, by label; empty where the files do not tell.
- ``files`` says how the files lie and gives a digest of their names and sizes; empty where there are none.
"""

from types import ModuleType

from xceptlab.data import cifar, digits, imagenet

SETS: dict[str, ModuleType] = {
    "digits": digits,
    "cifar10": cifar,
    "cifar100": cifar,
    "imagenet": imagenet,
    "folder": imagenet,
}
