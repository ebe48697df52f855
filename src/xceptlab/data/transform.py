"""Turn a picture into the tensor that a run's network expects, as the run's own images are prepared
for evaluation.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xceptlab.config.field_errors import shown
from xceptlab.config.schema import DataConfig
from xceptlab.data import augment, crop
from xceptlab.data.photographs import in_rgb
from xceptlab.errors import Refused

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Transform:
    """Turns a picture into the network's input: (3, size, size), RGB, in [-1, 1].

    For a run on photographs (ImageNet, a user's folder) the picture is turned upright, cropped in
    its centre and resized, as ``data.exif_orientation``, ``data.eval_crop`` and
    ``data.eval_interpolation`` say. For a run on a small set in memory (the digits, CIFAR, a
    registered set) the whole picture, as it is stored, is resized bilinearly to the square.
    """

    config: DataConfig
    """The data configuration of the run."""
    dtype: torch.dtype = torch.float32
    """Type of the tensors that come out."""

    def __call__(self, picture: "Image.Image | NDArray[np.uint8]") -> Tensor:
        """Turn one picture into the network's input, (3, size, size).

        Args:
            picture: Pillow's image, or an array (H, W), (H, W, 1) or (H, W, 3) of uint8.

        Raises:
            Refused: The picture is something else, or its pixels are floating-point numbers.
        """
        from PIL import Image

        image = picture if isinstance(picture, Image.Image) else _image(picture)
        size = self.config.size
        if self.config.in_memory:
            image = in_rgb(image, exif_orientation=False)
            small = image.resize((size, size), Image.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(small))  # (size, size, 3)
        else:
            image = in_rgb(image, self.config.exif_orientation)
            whole = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, H, W)
            pixels = crop.for_evaluation(whole, self.config).permute(1, 2, 0)  # (size, size, 3)
        return augment.normalise(pixels[None], self.dtype)[0]


def _image(array: Any) -> "Image.Image":
    """Convert an array (H, W), (H, W, 1) or (H, W, 3) of uint8 to Pillow's image.

    Raises:
        Refused: It is something else.
    """
    from PIL import Image

    if not isinstance(array, np.ndarray):
        raise Refused(
            f"{shown(type(array).__name__)} is no picture; it must be Pillow's image or an array of uint8"
        )
    has_channels = array.ndim == 3 and array.shape[2] in (1, 3)
    if array.dtype != np.uint8 or not (array.ndim == 2 or has_channels):
        found = f"{array.dtype} of shape {array.shape}"
        raise Refused(
            f"an array of {found} is no picture; it must be uint8 of shape (H, W), (H, W, 1) or (H, W, 3)"
        )
    if has_channels and array.shape[2] == 1:
        array = array.squeeze(2)
    return Image.fromarray(array)
