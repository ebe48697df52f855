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
"""Pattern of ``data.content``: the parts, the number of classes and a digest, as in
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
    """The data set. digits is embedded (scikit-learn's 1,797 handwritten digits); the others are
    read from ``root``. folder is a user's set of photographs, whose classes are read from ``root``,
    too. Any other name is that of a registered set of small images."""
    title: str = field(default="", metadata=NO_IDENTITY)
    """Name of a user's data set (``name: folder``), with which the ids of its runs begin in place of
    folder. Under another title a run is still the same.
    """
    content: str = ""
    """Identity of the files of a user's data set: its parts, its number of classes and a digest of
    the files' names and sizes. xceptlab fills it in. If it is given, it is compared with the files;
    where these are not at hand, it stands for them."""
    root: str = field(default="data", metadata=LOCATION)
    """Folder that holds the data set; hf://OWNER/NAME or hf://OWNER/NAME@REVISION for a data set of
    the Hugging Face hub.
    """
    download: bool = field(default=False, metadata=NO_IDENTITY)
    """Download what is not there: CIFAR into ``root`` (through torchvision), a data set of the
    Hugging Face hub into the hub's cache.
    """
    size: Annotated[int, Bounds(at_least=8, at_most=2048)] = 299
    """Side of the images that the network sees, in pixels."""
    validation: Annotated[float, Bounds(at_least=0, at_most=0.5)] = 0.0
    """Part of the training images that is held out for validation, stratified by class; 0 trains on
    all.
    """
    validation_seed: CountOrZero = 0
    """Seed by which the images for ``validation`` are drawn; independent of the run's seed."""
    train_images: int = 0
    """Use only this many of the training images, stratified by class; 0 uses all. The images for
    ``validation`` are held out of these: of 300 with validation 0.1, 270 are trained on."""
    test_images: CountOrZero = 0
    """Test on only this many images, stratified by class; 0 uses all."""
    on_corrupt: Literal["error", "skip"] = "error"
    """What happens at a training photograph that cannot be decoded. error ends the run and names
    the file. skip takes the next photograph of the split in its place, says so and counts it in the
    log."""
    max_pixels: Count = 178_956_970
    """Largest number of pixels of a photograph that is decoded, by default Pillow's limit. A larger
    one counts as one that cannot be decoded, since a file of a few bytes may claim any size. With
    ``on_corrupt: skip`` another photograph takes its place, so this can change a result."""
    exif_orientation: bool = True
    """Turn photographs upright as their EXIF data say, which concerns about 1 of 1,000 in ImageNet.
    false takes them as they are stored, as timm, torchvision and Keras do, for scores that are to
    be compared with theirs."""
    short_side: CountOrZero = 0
    """Read the copies of the photographs whose short side ``xceptlab data prepare`` has reduced to
    this many pixels; 0 decodes the originals.
    """
    quality: Annotated[int, Bounds(at_least=0, at_most=100)] = 90
    """JPEG quality of the prepared photographs; 0 keeps their pixels as they are."""
    cache: str = field(default="", metadata=LOCATION)
    """Folder of the prepared photographs; empty for prepared/ under ``root``."""
    crop: Literal["none", "pad", "resized"] = "resized"
    """Random crop of training images. none: no crop. pad: a crop of the same size, after ``pad``
    pixels were added at each border by reflection. resized: Inception's random resized crop."""
    pad: CountOrZero = 4
    """Number of pixels that ``crop: pad`` adds at each border by reflection."""
    flip: bool = True
    """Mirror training images left to right, each with probability 1/2."""
    cutout: CountOrZero = 0
    """Side in pixels of a square of each training image that is blanked (DeVries and Taylor 2017);
    0 blanks nothing.
    """
    colour: Rate = 0.0
    """Multiply brightness, contrast and saturation of each training photograph by random factors
    from 1 - colour to 1 + colour; 0 changes nothing.
    """
    rand_augment: Annotated[int, Bounds(at_least=0, at_most=30)] = 0
    """Magnitude of torchvision's RandAugment for training photographs, 1 to 30 (Cubuk et al. 2020;
    9 is usual); 0 does without it.
    """
    mixup: NotNegative = 0.0
    """Mix pairs of training images by a ratio from Beta(mixup, mixup) (Zhang et al. 2018); 0 mixes
    none.
    """
    cutmix: NotNegative = 0.0
    """Paste a box of each other into pairs of training images, its area from Beta(cutmix, cutmix)
    (Yun et al. 2019); 0 pastes none. With mixup too, a coin decides for each pair."""
    eval_crop: Annotated[float, Bounds(above=0, at_most=1)] = 0.875
    """Side of the central crop in evaluation, as a part of the image's short side (photographs
    only).
    """
    eval_interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Interpolation that resizes the central crop in evaluation; training's crops are resized
    bilinearly (photographs only).
    """

    num_classes: int = 0
    """Number of classes that a user's data set must have; 0 allows any number."""

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
    """Number of training and of test images of each known data set when it is complete."""
    PHOTOGRAPHS: ClassVar[tuple[str, ...]] = ("imagenet", "folder")
    """Data sets of photographs, which have any size and are decoded on demand. All other data sets
    are small images held in memory.
    """
    OF_PHOTOGRAPHS: ClassVar[tuple[str, ...]] = (
        "short_side",
        "colour",
        "rand_augment",
        "exif_orientation",
        "max_pixels",
        "eval_interpolation",
    )
    """Fields that apply to photographs only, and for which a set of small images refuses any value
    but the default. Other fields, such as ``eval_crop``, merely have no effect there.
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
        """Refuse a title or a content that is not of the form which a user's data set has."""
        if self.title:
            allowed = "made of letters, digits, '_', '.' and '-', the first one a letter or a digit"
            self._require("title", bool(TITLE.fullmatch(self.title)), allowed)
        if self.content:
            filled_in = "what xceptlab has filled in, such as train+val-3-0123456789abcdef"
            self._require("content", bool(CONTENT.fullmatch(self.content)), filled_in)

    def _check_split(self) -> None:
        """Refuse a seed of the validation images that is too large, and a part to hold out that has
        no image in it or that a user's data set with ``val`` and ``test`` does not need.
        """
        self._require(
            "validation_seed", self.validation_seed < 2**63, "between 0 and 9223372036854775807"
        )
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
        """Refuse a ``size``, a kind of ``crop``, a ``pad`` or a ``cutout`` that does not go with the
        data set's images or with ``size``; and photographs that are stored reduced to a
        ``short_side`` from which evaluation's central crop would have to be enlarged to ``size``.
        """
        random_crop = "pad" if self.in_memory else "resized"
        is_possible = self.crop in ("none", random_crop)
        self._require("crop", is_possible, f"one of none, {random_crop} for {self.name}", "name")
        if self.name in ("cifar10", "cifar100"):
            self._require(
                "size", self.size == 32, f"32 for {self.name}, the size of its images", "name"
            )
        self._require("pad", self.pad < self.size, "at least 0 and below data.size", "size")
        if self.short_side and not self.in_memory:
            # Evaluation crops a part of the short side; it would have to enlarge a smaller crop.
            smallest = math.ceil(self.size / self.eval_crop - 1e-9)
            large_enough = f"0 (the originals) or at least {smallest}"
            self._require(
                "short_side", self.short_side >= smallest, large_enough, "size", "eval_crop"
            )
        self._require(
            "cutout", self.cutout <= 2 * self.size, "at least 0 and at most twice data.size", "size"
        )

    def _check_no_photographs(self) -> None:
        """Refuse, for a set of small images, any value but the default in the fields of
        ``OF_PHOTOGRAPHS``.
        """
        for name in self.OF_PHOTOGRAPHS:
            default = getattr(DataConfig, name)
            is_default = getattr(self, name) == default
            allowed = f"{str(default).lower()} for {self.name}: it is for photographs"
            self._require(name, is_default, allowed, "name")

    def _check_no_own_set(self) -> None:
        """Refuse a title, a content or a wrong number of classes for a known or registered data
        set.
        """
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
        """Whether the identity of the data is known without reading any file."""
        return self.name != "folder" or bool(self.content and self.num_classes)

    @property
    def in_memory(self) -> bool:
        """Whether the images are small and held in memory, as opposed to photographs."""
        return self.name not in self.PHOTOGRAPHS

    @property
    def _known_classes(self) -> int:
        """Number of classes of a data set that xceptlab knows or that is registered; 0 for the
        user's own photographs (``data.name: folder``), whose classes only the files tell.
        """
        for entry in self.registered_entries():
            return entry.about["classes"]
        return self.CLASSES.get(self.name, 0)

    @property
    def _known_images(self) -> tuple[int, int]:
        """Numbers of training and of test images of a known or registered data set when it is
        complete; 0 for a number that only the files tell.
        """
        for entry in self.registered_entries():
            return entry.about["images"]
        return self.IMAGES.get(self.name, (0, 0))

    @property
    def classes(self) -> int:
        """Number of classes of the data set, which is that of the network's logits.

        Raises:
            Refused: Only the files tell it, and no one has read them yet
                (``xceptlab.data.resolved`` does).
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
        """Parts of a user's data set, such as ``("train", "val", "test")``; empty for other data
        sets, and as long as ``content`` is not filled in.
        """
        if not self.content:
            return ()
        parts, _, _ = self.content.partition("-")
        return tuple(parts.split("+"))

    @property
    def has_validation_images(self) -> bool:
        """Whether there are validation images: held out of the training images, or in a part of
        their own. Before ``content`` is filled in, such a part is not known and does not count.
        """
        return self.validation > 0 or len(self.parts) == 3

    def splits(self) -> str:
        """Describe the data set in words: its name, and which part is used for which split. The
        parts of a user's data set whose ``content`` is not filled in are taken for train and test.
        """
        known_test = "val" if self.name == "imagenet" else "test"
        train, *others = self.parts or ("train", known_test)
        validation = "none"
        if len(others) == 2:
            validation = others[0]
        elif self.validation:
            validation = f"{self.validation:.4g} of {train}"
        return f"{self.title or self.name}, training on {train}, validation on {validation}, test on {others[-1]}"

    def images(self) -> tuple[int, int, int]:
        """Return the numbers of images to train on, held out for validation and to test on; 0 for a
        number that only the files tell. Images in a validation part of their own are not counted.
        """
        complete_train, complete_test = self._known_images
        train = self.train_images or complete_train
        test = self.test_images or complete_test
        held_out = round(self.validation * train)
        return train - held_out, held_out, test
