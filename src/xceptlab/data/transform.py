"""From a picture to the tensor that a run's network expects, as the run's own images are prepared
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

    A photograph is turned upright, cropped in its centre and resized as ``data.exif_orientation``,
    ``eval_crop`` and ``eval_interpolation`` say; what stands for an image of a small set, such as
    the digits or CIFAR, is resized as a whole.
    """

    config: DataConfig
    dtype: torch.dtype = torch.float32

    def __call__(self, picture: "Image.Image | NDArray[np.uint8]") -> Tensor:
        """Prepare one picture: Pillow's image, or an array (H, W), (H, W, 1) or (H, W, 3) of uint8.

        Raises:
            Refused: The picture is something else.
        """
        from PIL import Image

        image = picture if isinstance(picture, Image.Image) else _image(picture)
        size = self.config.size
        if self.config.in_memory:
            image = in_rgb(image, exif_orientation=False)
            pixels = torch.from_numpy(
                np.array(image.resize((size, size), Image.Resampling.BILINEAR))
            )
        else:
            image = in_rgb(image, self.config.exif_orientation)
            whole = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            pixels = crop.for_evaluation(whole, self.config).permute(1, 2, 0)
        return augment.normalise(pixels[None], self.dtype)[0]


def _image(array: Any) -> "Image.Image":
    from PIL import Image

    if not isinstance(array, np.ndarray):
        raise Refused(
            f"{shown(type(array).__name__)} is no picture; it must be Pillow's image or an array of uint8"
        )
    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[2] not in (1, 3))
    ):
        found = f"{array.dtype} of shape {array.shape}"
        raise Refused(
            f"an array of {found} is no picture; it must be uint8 of shape (H, W), (H, W, 1) or (H, W, 3)"
        )
    return Image.fromarray(array.squeeze(2) if array.ndim == 3 and array.shape[2] == 1 else array)
