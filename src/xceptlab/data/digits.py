"""scikit-learn's handwritten digits: 1,797 real 8x8 images in 10 classes, embedded in the library; no download.

The last third is the test split, by strata: 500 images. Source: UCI, "Optical Recognition of Handwritten Digits" (Alpaydin and
Kaynak 1998).
"""

import numpy as np

from xceptlab.config.schema import DataConfig
from xceptlab.data.order import stratified
from xceptlab.data.sources import Arrays

TEST_IMAGES = 500


def locate(config: DataConfig) -> None:
    """Nothing to look for."""


def class_names(config: DataConfig) -> tuple[str, ...]:
    """The digits."""
    return tuple(map(str, range(10)))


def files(config: DataConfig) -> str:
    """None: they are embedded."""
    return ""


def load(config: DataConfig) -> tuple[Arrays, Arrays]:
    """Training and test images, enlarged to ``config.size`` by bilinear interpolation, grey repeated over three channels."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = np.round(digits.images * (255 / 16)).astype(np.uint8)  # 16 grey levels
    shape = (config.size, config.size)
    grey = np.stack([np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR)) for image in small])
    images, labels = np.repeat(grey[..., None], 3, axis=3), digits.target.astype(np.int64)
    test = np.zeros(len(labels), bool)
    test[stratified(labels, TEST_IMAGES, seed=0)] = True
    return Arrays(images[~test], labels[~test]), Arrays(images[test], labels[test])
