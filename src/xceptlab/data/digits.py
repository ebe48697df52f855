"""scikit-learn's handwritten digits: 1,797 real 8x8 images in 10 classes, embedded in the library;
no download.

500 of them, each class in proportion to its size, are the test split. Source: UCI, "Optical
Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998).
"""

import numpy as np

from xceptlab.config.schema import DataConfig
from xceptlab.data.order import stratified
from xceptlab.data.sources import Arrays

TEST_IMAGES = 500
"""Number of images in the test split."""


def require_files(config: DataConfig) -> None:
    """Do nothing: scikit-learn is installed, and its digits with it."""


def class_names(config: DataConfig) -> tuple[str, ...]:
    """Return the names of the classes, by label: ``0`` to ``9``."""
    return tuple(map(str, range(10)))


def files(config: DataConfig) -> str:
    """Return an empty string, where other data sets return the layout and the digest of their
    files: these images come with scikit-learn and have no files of their own.
    """
    return ""


def load(config: DataConfig) -> tuple[Arrays, Arrays]:
    """Load the training and the test images, in this order. They are resized bilinearly from 8 to
    ``config.size`` pixels a side, with grey repeated over three channels.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target.astype(np.int64)  # (n,)
    # The grey levels are 0 to 16.
    small = np.round(digits.images * (255 / 16)).astype(np.uint8)  # (n, 8, 8)
    side = config.size
    enlarged = [
        Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR) for image in small
    ]
    grey = np.stack([np.asarray(image) for image in enlarged])  # (n, size, size)
    images = np.repeat(grey[..., None], 3, axis=3)  # (n, size, size, 3)
    is_test = np.zeros(len(labels), bool)
    is_test[stratified(labels, TEST_IMAGES, seed=0)] = True
    return Arrays(images[~is_test], labels[~is_test]), Arrays(images[is_test], labels[is_test])
