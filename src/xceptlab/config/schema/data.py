"""The section ``data``: the images, how they are split, and how training varies them."""

import math
import re
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from xceptlab import register
from xceptlab.config.field_types import Bounds, Count, CountOrZero, NotNegative, Rate
from xceptlab.config.fields import LOCATION, NO_IDENTITY, ExtensibleSection
from xceptlab.errors import Refused

CONTENT = re.compile(r"(train\+val|train\+test|train\+val\+test)-\d+-[0-9a-f]{16}")
"""Pattern of ``data.content``: the parts, the number of classes and the digest, such as
``train+val-3-0123456789abcdef``.
"""
TITLE = re.compile(r"[^\W_][\w.-]*")
"""Pattern of ``data.title``: characters that are safe in the name of a folder."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(ExtensibleSection):
    """The images: which set, how it is split, and how a training image is varied."""

    PREFIX: ClassVar[str] = "data."
    REGISTRABLE: ClassVar[dict[str, register.Kind]] = {"name": "data"}

    name: Literal["digits", "cifar10", "cifar100", "imagenet", "folder"] | str = "imagenet"
    """The data set: digits is embedded (scikit-learn's 1,797 handwritten digits), the others are
    read from ``root``; folder is an own set of photographs, whose classes are read there, too; or a
    registered set of small images."""
    title: str = field(default="", metadata=NO_IDENTITY)
    """Name of an own data set (``name: folder``) in the ids of its runs; under another title a run
    stays the same.
    """
    content: str = ""
    """Identity of an own data set's files: its parts, its number of classes and a digest of the
    files' names and sizes. Filled in by xceptlab; if it is given, it must be that of the files, or
    stands for them where they are not at hand."""
    root: str = field(default="data", metadata=LOCATION)
    """Folder that holds the data set, or hf://OWNER/NAME or hf://OWNER/NAME@REVISION for a data set
    of the Hugging Face hub.
    """
    download: bool = field(default=False, metadata=NO_IDENTITY)
    """Download what is not there: CIFAR into ``root`` (through torchvision), a set of the hub into
    its own cache.
    """
    size: Annotated[int, Bounds(at_least=8, at_most=2048)] = 299
    """Side of the images that the network sees, in pixels."""
    validation: Annotated[float, Bounds(at_least=0, at_most=0.5)] = 0.0
    """Part of the training images held out for validation, stratified by class; 0 trains on all."""
    validation_seed: CountOrZero = 0
    """Seed by which the held-out images are drawn; independent of the run's seed."""
    train_images: int = 0
    """Use this many of the training images only, stratified by class; 0 uses all. Those held out for
    ``validation`` are among them: of 300 with validation 0.1, 270 are trained on."""
    test_images: CountOrZero = 0
    """Test on this many images only, stratified by class; 0 uses all."""
    on_corrupt: Literal["error", "skip"] = "error"
    """What happens at a training photograph that cannot be decoded: error ends the run with its
    name; skip takes the next one of the split in its place, says so and counts it in the log."""
    max_pixels: Count = 178_956_970
    """Largest number of pixels of a photograph that is decoded; a larger one, which a few bytes may
    claim to be, counts as one that cannot be. With ``on_corrupt: skip`` others stand in for it, so
    this is part of the science. The default is Pillow's limit."""
    exif_orientation: bool = True
    """Turn photographs upright as their EXIF data say, which concerns about 1 of 1,000 of
    ImageNet's. timm, torchvision and Keras take them as they are stored: so does false, for scores
    that are to be compared with theirs."""
    short_side: CountOrZero = 0
    """Read photographs whose short side ``xceptlab data prepare`` has reduced to this many pixels;
    0 decodes the originals.
    """
    quality: Annotated[int, Bounds(at_least=0, at_most=100)] = 90
    """JPEG quality of the prepared photographs; 0 keeps their pixels as they are."""
    cache: str = field(default="", metadata=LOCATION)
    """Folder of the prepared photographs; prepared/ under ``root`` if empty."""
    crop: Literal["none", "pad", "resized"] = "resized"
    """Random crop in training: none; after reflecting ``pad`` pixels at the borders; or Inception's
    random resized crop.
    """
    pad: CountOrZero = 4
    """Pixels that ``crop: pad`` reflects at each border."""
    flip: bool = True
    """Mirror half of the training images."""
    cutout: CountOrZero = 0
    """Side in pixels of a square of each training image that is blanked (DeVries and Taylor 2017);
    0 blanks nothing.
    """
    colour: Rate = 0.0
    """Vary brightness, contrast and saturation of each training photograph by factors of 1 - colour
    to 1 + colour.
    """
    rand_augment: Annotated[int, Bounds(at_least=0, at_most=30)] = 0
    """Magnitude of torchvision's RandAugment for training photographs (Cubuk et al. 2020; 9 is
    usual), 1 to 30; 0 for none.
    """
    mixup: NotNegative = 0.0
    """Mix pairs of training images by a ratio from Beta(mixup, mixup) (Zhang et al. 2018); 0 mixes
    none.
    """
    cutmix: NotNegative = 0.0
    """Paste a box of each other into pairs of training images, its area from Beta(cutmix, cutmix)
    (Yun et al. 2019); 0 pastes none. With mixup too, a coin decides for each pair."""
    eval_crop: Annotated[float, Bounds(above=0, at_most=1)] = 0.875
    """Side of the central crop in evaluation, as a part of the short side of the image (photographs
    only).
    """
    eval_interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Interpolation that resizes the central crop in evaluation; training's crops are resized
    bilinearly (photographs only).
    """

    num_classes: int = 0
    """Number of classes that an own data set must have; 0 is as many as it has."""

    CLASSES: ClassVar[dict[str, int]] = {
        "digits": 10,
        "cifar10": 10,
        "cifar100": 100,
        "imagenet": 1000,
    }
    """Number of classes of each known data set."""
    IMAGES: ClassVar[dict[str, tuple[int, int]]] = {
        "digits": (1297, 500),
        "cifar10": (50_000, 10_000),
        "cifar100": (50_000, 10_000),
        "imagenet": (1_281_167, 50_000),
    }
    """Number of training and of test images of each known data set, as long as it is complete."""
    PHOTOGRAPHS: ClassVar[tuple[str, ...]] = ("imagenet", "folder")
    """Data sets of photographs of any size, decoded on demand; all other sets are small images,
    held in memory.
    """
    OF_PHOTOGRAPHS: ClassVar[tuple[str, ...]] = (
        "short_side",
        "colour",
        "rand_augment",
        "exif_orientation",
        "max_pixels",
        "eval_interpolation",
    )
    """Fields that apply to photographs only; for small images other values than the defaults are
    refused.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_identity_of_own_set()
        if self.train_images:
            self._require("train_images", self.train_images >= 2, "0 (all) or at least 2")
        self._check_split()
        self._check_images()
        if self.in_memory:
            self._check_no_photographs()
        if self.name != "folder":
            self._check_no_own_set()
        if self.num_classes:
            self._require("num_classes", self.num_classes >= 2, "0 or at least 2")

    def _check_identity_of_own_set(self) -> None:
        if self.title:
            allowed = "made of letters, digits, '_', '.' and '-', the first one a letter or a digit"
            self._require("title", bool(TITLE.fullmatch(self.title)), allowed)
        if self.content:
            filled_in = "what xceptlab has filled in, such as train+val-3-0123456789abcdef"
            self._require("content", bool(CONTENT.fullmatch(self.content)), filled_in)

    def _check_split(self) -> None:
        if not self.validation:
            return
        train, held_out, _ = self.images()
        if train:
            enough = f"0, or enough to hold out one of {train} images"
            self._require("validation", held_out > 0, enough, "train_images", "name")
        has_own_part = "val" in self.parts and "test" in self.parts
        self._require(
            "validation", not has_own_part, "0, as val holds images to validate on", "content"
        )

    def _check_images(self) -> None:
        random_crop = "pad" if self.in_memory else "resized"
        is_possible = self.crop in ("none", random_crop)
        self._require("crop", is_possible, f"one of none, {random_crop} for {self.name}", "name")
        if self.name in ("cifar10", "cifar100"):
            self._require(
                "size", self.size == 32, f"32 for {self.name}, the size of its images", "name"
            )
        self._require("pad", self.pad < self.size, "at least 0 and below data.size", "size")
        if self.short_side:
            # evaluation would enlarge what is smaller
            smallest = math.ceil(self.size / self.eval_crop - 1e-9)
            large_enough = f"0 (the originals) or at least {smallest}"
            self._require(
                "short_side", self.short_side >= smallest, large_enough, "size", "eval_crop"
            )
        self._require(
            "cutout", self.cutout <= 2 * self.size, "at least 0 and at most twice data.size", "size"
        )

    def _check_no_photographs(self) -> None:
        """Refuse settings that apply to photographs only, in a set of small images."""
        for name in self.OF_PHOTOGRAPHS:
            default = getattr(DataConfig, name)
            is_default = getattr(self, name) == default
            allowed = f"{str(default).lower()} for {self.name}: it is for photographs"
            self._require(name, is_default, allowed, "name")

    def _check_no_own_set(self) -> None:
        """Refuse settings that describe the user's own photographs, in a known or registered set."""
        classes = self._known_classes
        hint = f"0 or {classes} for {self.name}; photographs of one's own are data.name: folder"
        if self.name == "imagenet":
            hint += (
                ", and a run that an earlier version made of them is read with --data.name folder"
            )
        self._require("num_classes", self.num_classes in (0, classes), hint, "name")
        for name in ("title", "content"):
            left_out = f"left out for {self.name}: it is for data.name: folder"
            self._require(name, not getattr(self, name), left_out, "name")

    @property
    def identity_is_known(self) -> bool:
        """True if no file needs to be read to know the identity of the data."""
        return self.name != "folder" or bool(self.content and self.num_classes)

    @property
    def in_memory(self) -> bool:
        """Whether the data set is of small images, which are held in memory."""
        return self.name not in self.PHOTOGRAPHS

    @property
    def _known_classes(self) -> int:
        """Number of classes of a known or registered data set; 0 for an own one, whose files tell."""
        for entry in self.registered_entries():
            return entry.about["classes"]
        return self.CLASSES.get(self.name, 0)

    @property
    def _known_images(self) -> tuple[int, int]:
        """Number of training and of test images of a complete known or registered data set; 0 where
        only the files tell.
        """
        for entry in self.registered_entries():
            return entry.about["images"]
        return self.IMAGES.get(self.name, (0, 0))

    @property
    def classes(self) -> int:
        """Number of classes between which the network decides.

        Raises:
            Refused: It depends on files that nobody has looked at.
        """
        classes = self.num_classes or self._known_classes
        if not classes:
            raise Refused(
                "data.num_classes: of an own data set only the files tell it, which nobody has looked at; "
                "xceptlab.data.resolved(config) does"
            )
        return classes

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts of an own data set, such as (train, val, test); empty for other sets, and before
        its files were looked at.
        """
        if not self.content:
            return ()
        parts, _, _ = self.content.partition("-")
        return tuple(parts.split("+"))

    @property
    def has_validation_images(self) -> bool:
        """Whether there are validation images, held out of the training images or in a part of
        their own.
        """
        return self.validation > 0 or len(self.parts) == 3

    def splits(self) -> str:
        """Description of the data set in words: its name, and which of its parts is which split."""
        known_test = "val" if self.name == "imagenet" else "test"
        train, *others = self.parts or ("train", known_test)
        validation = "none"
        if len(others) == 2:
            validation = others[0]
        elif self.validation:
            validation = f"{self.validation:.4g} of {train}"
        return f"{self.title or self.name}, training on {train}, validation on {validation}, test on {others[-1]}"

    def images(self) -> tuple[int, int, int]:
        """Number of images to train on, to validate on and to test on; 0 also where only the files
        tell.
        """
        complete_train, complete_test = self._known_images
        train = self.train_images or complete_train
        test = self.test_images or complete_test
        held_out = round(self.validation * train)
        return train - held_out, held_out, test
