"""What a run is: its configuration, what is allowed in it, and the identity that follows from it.

Every field is explained where it stands; these texts are also the help of the command line. *Science* fields (model, data,
train, seed) can change a result and make up the identity of a run; *runtime* fields (runtime, launcher) must not and do not.
"""

import dataclasses
import functools
import json
import math
import os
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from xceptlab import register
from xceptlab.config import options
from xceptlab.config.field_types import Bounds
from xceptlab.config.fields import LOCATION, NO_IDENTITY, OpenSection, Section
from xceptlab.config.options import Options
from xceptlab.config.run_id import SCIENCE_VERSION, SHORT, readable_parts, science_hash, science_of

CONTENT = re.compile(r"(train\+val|train\+test|train\+val\+test)-\d+-[0-9a-f]{16}")
"""Pattern of ``data.content``: the parts, the number of classes and the digest, such as ``train+val-3-0123456789abcdef``."""
DIGEST = re.compile(r"[0-9a-f]{16}")
"""Pattern of ``model.weights_digest``: 16 hexadecimal digits."""
TITLE = re.compile(r"[^\W_][\w.-]*")
"""Pattern of ``data.title``: characters that are safe in the name of a folder."""

OUTSIDE: dict[str, dict[str, Any]] = {
    "model": {"family": "xception", "options": {}},
    "train": {"metrics": [], "callbacks": []},
    "": {"extensions": []},
}
"""Defaults, by section, of fields that only runs with the user's own modules set; written configurations leave them out."""

Count = Annotated[int, Bounds(at_least=1)]
"""A whole number of at least 1."""
CountOrZero = Annotated[int, Bounds(at_least=0)]
"""A whole number of at least 0."""
Positive = Annotated[float, Bounds(above=0)]
"""A decimal number above 0."""
NotNegative = Annotated[float, Bounds(at_least=0)]
"""A decimal number that may be 0."""
Rate = Annotated[float, Bounds(at_least=0, below=1)]
"""A decimal number of at least 0 and below 1."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(OpenSection):
    """The network. The defaults are the paper's Xception, arXiv:1610.02357, fig. 5."""

    PREFIX: ClassVar[str] = "model."
    OPEN: ClassVar[dict[str, register.Kind]] = {"intermediate": "activation", "family": "model"}

    order: Literal["depthwise_first", "pointwise_first"] = "depthwise_first"
    """Which convolution of a separable one comes first (the paper's section 1.2 calls the order unimportant)."""
    intermediate: Literal["none", "relu", "elu", "gelu", "silu", "leaky_relu", "selu", "mish", "hardswish", "tanh"] | str = "none"
    """Activation between the depthwise and the pointwise convolution (the paper's fig. 10), or a registered one."""
    intermediate_norm: bool = False
    """BatchNorm between the two convolutions, before the activation (DeepLabv3+ has both)."""
    residual: Literal["all", "none", "identity_only", "projection_only"] = "all"
    """Residual connections around the blocks (the paper's fig. 9): the middle flow's are identities, the others projections."""
    segments: int | Literal["all"] = "all"
    """Groups of channels that the 3x3 convolution after the pointwise one sees: 1 is a regular, all a depthwise convolution (the
    paper's section 1.2); a number needs order pointwise_first."""
    convolution: Literal["separable", "regular"] = "separable"
    """regular puts one 3x3 convolution in the place of each separable one."""
    width: Annotated[float, Bounds(at_most=16)] = 1.0
    """Multiplier of every layer's number of channels."""
    divisor: Count = 1
    """Channels are rounded to multiples of this; 8 lets 1, 2, 4 and 8 segments divide every layer at any width."""
    match: Literal["none", "parameters", "macs"] = field(default="none", metadata=NO_IDENTITY)
    """In a study: solve each arm's width for the first arm's number of parameters or multiply-accumulates."""
    timm: str = ""
    """Name of a timm model to train in place of Xception, such as inception_v3; of the other fields only dropout applies then."""
    family: Literal["xception"] | str = "xception"
    """The network: Xception, or a registered family, to which of the other fields only ``options`` and ``init`` apply."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of a registered family, by name; those that are left out have its defaults."""
    middle_blocks: Annotated[int, Bounds(at_least=0, at_most=32)] = 8
    """Number of blocks in the middle flow, 0 to 32."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """First two convolutions: the paper's (stride 2, no padding), or size-preserving ones for images of 32x32 and smaller."""
    fc: tuple[int, ...] = ()
    """Units of fully connected layers with ReLU before the classifier (the paper's optional ones: [4096, 4096])."""
    dropout: Rate = 0.0
    """Dropout rate before the classifier (the paper's ImageNet recipe uses 0.5)."""
    padding: Literal["same", "symmetric"] = "same"
    """Padding of the max poolings: TensorFlow's, or one pixel on every side as in timm."""
    bn_eps: Positive = 1e-3
    """BatchNorm: what is added to the variance (Keras's value)."""
    bn_momentum: Annotated[float, Bounds(above=0, at_most=1)] = 0.01
    """BatchNorm: weight of a batch in the running statistics (Keras's momentum of 0.99)."""
    init: Literal["keras", "timm"] = "keras"
    """How initial weights are drawn: Glorot uniform as in the original, or as timm's port draws them."""
    weights: str = field(default="", metadata=LOCATION)
    """Weights to start from in place of drawn ones: a file of Keras's or timm's Xception, one of ours, or a run's folder. The
    classifier is drawn anew where they have another number of classes; all else must fit."""
    weights_digest: str = ""
    """Digest of the file of ``model.weights``, part of the run's identity. Filled in by xceptlab; if it is given, it must be the
    file's, or stands for the file where that is not at hand."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_layers()
        if self.timm:
            self._require("family", self.family == "xception", "xception, or left out, with model.timm", "timm")
        self._check_options()
        self._check_weights()

    def _check_layers(self) -> None:
        stem_has_a_channel = self.width > 0 and round(32 * self.width) >= 1
        self._require("width", stem_has_a_channel, "at least 0.016, to leave the stem a channel")
        if self.segments != "all":
            self._require("segments", self.segments >= 1, "all or a whole number of at least 1")
            may_be_a_number = self.order == "pointwise_first" and self.convolution == "separable"
            unless = "all, unless model.order is pointwise_first and model.convolution separable"
            self._require("segments", may_be_a_number, unless, "order", "convolution")
        have_units = all(units >= 1 for units in self.fc)
        self._require("fc", have_units, "a list of numbers of units, each at least 1")

    def _check_options(self) -> None:
        """Check ``options`` by the types of the family's own dataclass, and leave out those that have their defaults."""
        schema = self._options_schema
        if schema is None:
            self._require("options", not self.options, f"left out: {self.family} has none", "family")
            differing = Options()
        else:
            differing = options.checked(schema, self.options)
        object.__setattr__(self, "options", differing)

    def _check_weights(self) -> None:
        if self.weights:
            xception = "only Xception starts from a file"
            of_family = f"left out with model.family {self.family}: {xception}"
            self._require("weights", self.family == "xception", of_family, "family")
            self._require("weights", not self.timm, f"left out with model.timm: {xception}", "timm")
        if self.weights_digest:
            is_a_digest = bool(DIGEST.fullmatch(self.weights_digest))
            self._require("weights_digest", is_a_digest, "what xceptlab has filled in, such as 0123456789abcdef")
            self._require("weights_digest", bool(self.weights), "left out without model.weights", "weights")

    @property
    def _options_schema(self) -> Any:
        """The dataclass of a registered family's options; None for Xception and for a family without options."""
        if self.family == "xception":
            return None
        return register.entry("model", self.family).about["options"]

    def all_options(self) -> dict[str, Any]:
        """All options of a registered family by name, also those that have their defaults; empty for Xception."""
        schema = self._options_schema
        if schema is None:
            return {}
        return options.with_defaults(schema, self.options)

    @property
    def is_xception(self) -> bool:
        """Whether the network is Xception, which has a width to be solved and starts from files of weights."""
        return not self.timm and self.family == "xception"

    @property
    def resolved(self) -> bool:
        """True if no file needs to be read to know the identity of the initial weights."""
        return not self.weights or bool(self.weights_digest)

    @property
    def start(self) -> str:
        """Initial weights in words: ``drawn``, or the name of their file with the first digits of its digest."""
        if not self.weights:
            return "drawn"
        name = os.path.basename(os.path.normpath(self.weights))
        return f"{name} ({self.weights_digest[:SHORT]})"

    def channels(self, paper: int) -> int:
        """The number of channels of a layer that has ``paper`` channels in the paper."""
        multiples = round(paper * self.width / self.divisor)
        return max(1, multiples) * self.divisor


@dataclass(frozen=True, kw_only=True)
class DataConfig(OpenSection):
    """The images: which set, how it is split, and how a training image is varied."""

    PREFIX: ClassVar[str] = "data."
    OPEN: ClassVar[dict[str, register.Kind]] = {"name": "data"}

    name: Literal["digits", "cifar10", "cifar100", "imagenet", "folder"] | str = "imagenet"
    """The data set: digits is embedded (scikit-learn's 1,797 handwritten digits), the others are read from ``root``; folder is an
    own set of photographs, whose classes are read there, too; or a registered set of small images."""
    title: str = field(default="", metadata=NO_IDENTITY)
    """Name of an own data set (``name: folder``) in the ids of its runs; under another title a run stays the same."""
    content: str = ""
    """Identity of an own data set's files: its parts, its number of classes and a digest of the files' names and sizes. Filled in
    by xceptlab; if it is given, it must be that of the files, or stands for them where they are not at hand."""
    root: str = field(default="data", metadata=LOCATION)
    """Folder that holds the data set, or hf://OWNER/NAME or hf://OWNER/NAME@REVISION for a data set of the Hugging Face hub."""
    download: bool = field(default=False, metadata=NO_IDENTITY)
    """Download what is not there: CIFAR into ``root`` (through torchvision), a set of the hub into its own cache."""
    size: Annotated[int, Bounds(at_least=8, at_most=2048)] = 299
    """Side of the images that the network sees, in pixels."""
    validation: Annotated[float, Bounds(at_least=0, at_most=0.5)] = 0.0
    """Part of the training images held out for validation, stratified by class; 0 trains on all."""
    validation_seed: CountOrZero = 0
    """Seed by which the held-out images are drawn; independent of the run's seed."""
    train_images: int = 0
    """Train on this many images only, stratified by class; 0 uses all."""
    test_images: CountOrZero = 0
    """Test on this many images only, stratified by class; 0 uses all."""
    on_corrupt: Literal["error", "skip"] = "error"
    """What happens at a training photograph that cannot be decoded: error ends the run with its name; skip takes the next one of
    the split in its place, says so and counts it in the log."""
    max_pixels: Count = 178_956_970
    """Largest number of pixels of a photograph that is decoded; a larger one, which a few bytes may claim to be, counts as one
    that cannot be. With ``on_corrupt: skip`` others stand in for it, so this is part of the science. The default is Pillow's
    limit."""
    exif_orientation: bool = True
    """Turn photographs upright as their EXIF data say, which concerns about 1 of 1,000 of ImageNet's. timm, torchvision and Keras
    take them as they are stored: so does false, for scores that are to be compared with theirs."""
    short_side: CountOrZero = 0
    """Read photographs whose short side ``xceptlab data prepare`` has reduced to this many pixels; 0 decodes the originals."""
    quality: Annotated[int, Bounds(at_least=0, at_most=100)] = 90
    """JPEG quality of the prepared photographs; 0 keeps their pixels as they are."""
    cache: str = field(default="", metadata=LOCATION)
    """Folder of the prepared photographs; prepared/ under ``root`` if empty."""
    crop: Literal["none", "pad", "resized"] = "resized"
    """Random crop in training: none; after reflecting ``pad`` pixels at the borders; or Inception's random resized crop."""
    pad: CountOrZero = 4
    """Pixels that ``crop: pad`` reflects at each border."""
    flip: bool = True
    """Mirror half of the training images."""
    cutout: CountOrZero = 0
    """Side in pixels of a square of each training image that is blanked (DeVries and Taylor 2017); 0 blanks nothing."""
    colour: Rate = 0.0
    """Vary brightness, contrast and saturation of each training photograph by factors of 1 - colour to 1 + colour."""
    rand_augment: Annotated[int, Bounds(at_least=0, at_most=30)] = 0
    """Magnitude of torchvision's RandAugment for training photographs (Cubuk et al. 2020; 9 is usual), 1 to 30; 0 for none."""
    mixup: NotNegative = 0.0
    """Mix pairs of training images by a ratio from Beta(mixup, mixup) (Zhang et al. 2018); 0 mixes none."""
    cutmix: NotNegative = 0.0
    """Paste a box of each other into pairs of training images, its area from Beta(cutmix, cutmix) (Yun et al. 2019); 0 pastes
    none. With mixup too, a coin decides for each pair."""
    eval_crop: Annotated[float, Bounds(above=0, at_most=1)] = 0.875
    """Side of the central crop in evaluation, as a part of the short side of the image (photographs only)."""
    eval_interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Interpolation that resizes the central crop in evaluation; training's crops are resized bilinearly (photographs only)."""

    num_classes: int = 0
    """Number of classes that an own data set must have; 0 is as many as it has."""

    CLASSES: ClassVar[dict[str, int]] = {"digits": 10, "cifar10": 10, "cifar100": 100, "imagenet": 1000}
    """Number of classes of each known data set."""
    IMAGES: ClassVar[dict[str, tuple[int, int]]] = {
        "digits": (1297, 500),
        "cifar10": (50_000, 10_000),
        "cifar100": (50_000, 10_000),
        "imagenet": (1_281_167, 50_000),
    }
    """Number of training and of test images of each known data set, as long as it is complete."""
    PHOTOGRAPHS: ClassVar[tuple[str, ...]] = ("imagenet", "folder")
    """Data sets of photographs of any size, decoded on demand; all other sets are small images, held in memory."""
    OF_PHOTOGRAPHS: ClassVar[tuple[str, ...]] = (
        "short_side",
        "colour",
        "rand_augment",
        "exif_orientation",
        "max_pixels",
        "eval_interpolation",
    )
    """Fields that apply to photographs only; for small images other values than the defaults are refused."""

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
        self._require("validation", not has_own_part, "0, as val holds images to validate on", "content")

    def _check_images(self) -> None:
        random_crop = "pad" if self.in_memory else "resized"
        is_possible = self.crop in ("none", random_crop)
        self._require("crop", is_possible, f"one of none, {random_crop} for {self.name}", "name")
        if self.name in ("cifar10", "cifar100"):
            self._require("size", self.size == 32, f"32 for {self.name}, the size of its images", "name")
        self._require("pad", self.pad < self.size, "at least 0 and below data.size", "size")
        if self.short_side:
            smallest = math.ceil(self.size / self.eval_crop - 1e-9)  # evaluation would enlarge what is smaller
            large_enough = f"0 (the originals) or at least {smallest}"
            self._require("short_side", self.short_side >= smallest, large_enough, "size", "eval_crop")
        self._require("cutout", self.cutout <= 2 * self.size, "at least 0 and at most twice data.size", "size")

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
            hint += ", and a run that an earlier version made of them is read with --data.name folder"
        self._require("num_classes", self.num_classes in (0, classes), hint, "name")
        for name in ("title", "content"):
            left_out = f"left out for {self.name}: it is for data.name: folder"
            self._require(name, not getattr(self, name), left_out, "name")

    @property
    def resolved(self) -> bool:
        """True if no file needs to be read to know the identity of the data."""
        return self.name != "folder" or bool(self.content and self.num_classes)

    @property
    def in_memory(self) -> bool:
        """Whether the data set is of small images, which are held in memory."""
        return self.name not in self.PHOTOGRAPHS

    @property
    def _known_classes(self) -> int:
        """Number of classes of a known or registered data set; 0 for an own one, whose files tell."""
        for entry in self.from_outside():
            return entry.about["classes"]
        return self.CLASSES.get(self.name, 0)

    @property
    def _known_images(self) -> tuple[int, int]:
        """Number of training and of test images of a complete known or registered data set; 0 where only the files tell."""
        for entry in self.from_outside():
            return entry.about["images"]
        return self.IMAGES.get(self.name, (0, 0))

    @property
    def classes(self) -> int:
        """Number of classes between which the network decides."""
        classes = self.num_classes or self._known_classes
        assert classes, "of an own data set only the files tell the number of classes; xceptlab.data.resolved looks at them"
        return classes

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts of an own data set, such as (train, val, test); empty for other sets, and before its files were looked at."""
        if not self.content:
            return ()
        parts, _, _ = self.content.partition("-")
        return tuple(parts.split("+"))

    @property
    def validates(self) -> bool:
        """Whether there are validation images, held out of the training images or in a part of their own."""
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
        """Number of images to train on, to validate on and to test on; 0 also where only the files tell."""
        complete_train, complete_test = self._known_images
        train = self.train_images or complete_train
        test = self.test_images or complete_test
        held_out = round(self.validation * train)
        return train - held_out, held_out, test


@dataclass(frozen=True, kw_only=True)
class TrainConfig(OpenSection):
    """The training. The defaults are the paper's ImageNet recipe as far as it states one (sections 4.2 and 4.3)."""

    PREFIX: ClassVar[str] = "train."
    OPEN: ClassVar[dict[str, register.Kind]] = {
        "optimizer": "optimizer",
        "schedule": "schedule",
        "metrics": "metric",
        "callbacks": "callback",
    }

    epochs: Count = 100
    """Passes over the training images (not stated in the paper)."""
    batch_size: int = 1024
    """Images per optimizer step over all devices together (not stated in the paper)."""
    accumulate: Count = 1
    """Split each step into this many smaller batches, one after another; BatchNorm sees the smaller batches."""
    optimizer: Literal["sgd", "rmsprop", "adamw"] | str = "sgd"
    """Name of the optimizer: one of torch's, or a registered one."""
    lr: Positive = 0.045
    """Learning rate after the warm-up."""
    momentum: Rate = 0.9
    """Momentum of sgd and rmsprop."""
    nesterov: bool = False
    """Nesterov's momentum, for sgd with momentum; with another optimizer it does not apply and counts as false."""
    weight_decay: NotNegative = 1e-5
    """L2 regularisation (sgd, rmsprop), decoupled weight decay (adamw)."""
    decay_norm_bias: bool = True
    """Apply the weight decay also to BatchNorm's parameters and to biases."""
    schedule: Literal["constant", "exponential", "cosine"] | str = "exponential"
    """Learning rate after the warm-up: constant, times ``decay_rate`` every ``decay_epochs``, a cosine to 0, or a registered
    schedule."""
    decay_rate: Positive = 0.94
    """Factor of the exponential schedule."""
    decay_epochs: Positive = 2.0
    """Epochs between two steps of the exponential schedule."""
    warmup: Rate = 0.0
    """Part of the training in which the learning rate rises linearly from 0."""
    label_smoothing: Rate = 0.0
    """Probability taken from the true class and spread over all."""
    gradient_clip: NotNegative = 0.0
    """Largest norm of the gradient; 0 does not clip."""
    ema: Rate = 0.0
    """Decay d of the average of weights that is evaluated, min(d, (1 + t) / (10 + t)) at step t; 0 evaluates the weights."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"
    """Number format of the computation, in Lightning's names."""
    threads: Count = 1
    """CPU threads of a process; another number sums in another order, so it is part of the science."""
    compile: bool = False
    """Compile the network with torch.compile, which is faster on a GPU. The first run compiles it, later ones find the code in
    torch's cache (TORCHINDUCTOR_CACHE_DIR). Fused operations round differently, so it is part of the science."""
    metrics: tuple[str, ...] = ()
    """Registered metrics that every evaluation measures, besides top1, top5 and loss."""
    callbacks: tuple[str, ...] = ()
    """Registered Lightning callbacks, in their order."""
    deterministic: bool = True
    """Use deterministic algorithms only. false is faster on a GPU (7% at 299 on an H100, steps launched one by one), but then a
    run is repeated only within noise, not to the bit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("batch_size", self.batch_size >= 2, "at least 2 (BatchNorm needs two images)")
        has_two_images = self.accumulate * 2 <= self.batch_size
        self._require("accumulate", has_two_images, "at most half of train.batch_size", "batch_size")
        if self.nesterov:
            has_momentum = self.optimizer != "sgd" or self.momentum > 0
            self._require("nesterov", has_momentum, "false without momentum", "momentum", "optimizer")
        if "train.nesterov" in self.unused:
            object.__setattr__(self, "nesterov", False)

    @property
    def unused(self) -> set[str]:
        """Keys that do not apply to the chosen optimizer, and are reset; a registered optimizer may read all of them."""
        return {"train.nesterov"} if self.optimizer in ("rmsprop", "adamw") else set()


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig(Section):
    """Where and how a run runs; nothing here may change its result."""

    PREFIX: ClassVar[str] = "runtime."

    outputs: str = field(default="outputs", metadata=LOCATION)
    """Folder that holds ``runs/`` and ``studies/``."""
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    """Kind of device, in Lightning's names."""
    devices: Count = 1
    """Devices of this kind per node; BatchNorm sees the images of all of them."""
    num_nodes: Count = 1
    """Number of machines (nodes) of a run."""
    workers: CountOrZero = 0
    """Processes that load data, per device; 0 loads in the training process."""
    capture: bool = True
    """On one GPU replay forward and backward of a step from a CUDA graph, to the same bits (not in 16-mixed); false launches
    them kernel by kernel."""
    log_every: Count = 50
    """Steps between two lines of the log."""
    checkpoint_steps: CountOrZero = 0
    """Steps between two checkpoints within an epoch; 0 writes them by time only."""
    checkpoint_minutes: Positive = 10.0
    """Minutes between two checkpoints within an epoch; there is one at the end of each epoch, too."""
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Mode of Weights & Biases; auto is online where a key is configured, else offline."""
    wandb_project: str = ""
    """Project in Weights & Biases; empty for the one that WANDB_PROJECT or W&B's own settings name, or else xceptlab."""
    wandb_weights: bool = False
    """Send the evaluated weights to Weights & Biases, too, as an artifact."""
    tensorboard: bool = False
    """Write the log for TensorBoard, too, into the run's folder."""
    study: str = ""
    """Name of the study that started the run; set by ``xceptlab study``."""
    arm: str = ""
    """Name of the arm in that study; set by ``xceptlab study``."""


@dataclass(frozen=True, kw_only=True)
class LauncherConfig(Section):
    """What starts a study's runs, and what it asks a cluster for; nothing here may change a run's result."""

    PREFIX: ClassVar[str] = "launcher."

    name: Literal["local", "slurm", "ray"] = "local"
    """What starts the runs: processes on this machine (local), SLURM's job arrays (submitit) or Ray's tasks. All nodes of a
    cluster must see the outputs, the data and the code under the same paths."""
    gpus: CountOrZero = 0
    """GPUs to ask a cluster for, per node of a run; runtime.devices says how many it uses."""
    memory: CountOrZero = 0
    """Memory to ask a cluster for, per node of a run, in GB; 0 for the cluster's default."""
    minutes: int = 1440
    """SLURM: time limit of a job; a run that takes longer is continued by itself."""
    partition: str = ""
    """SLURM: partition; empty for the default one."""
    account: str = ""
    """SLURM: account; empty for the default one."""
    options: tuple[str, ...] = ()
    """SLURM: further options of sbatch, such as [qos=long, constraint=a100]."""
    address: str = "auto"
    """Ray: the cluster's address; auto for the one that this machine is in."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("minutes", self.minutes >= 3, "at least 3, as a job is told 90 seconds before its end")
        have_values = all("=" in option for option in self.options)
        self._require("options", have_values, "a list of options of sbatch, each NAME=VALUE")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Section):
    """One run: one training of one network with one seed."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training."""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    """Where and how it runs; must not change results."""
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    """What starts the runs of a study; must not change results."""
    seed: int = 0
    """Seed of the initial weights, the order of the images, their augmentation and dropout."""
    extensions: tuple[str, ...] = ()
    """The user's modules that register networks, metrics, data sets and the like: ``.py`` files, looked up beside the
    configuration file that names them, or importable modules. They are executed; a run's folder never names any."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("seed", 0 <= self.seed < 2**63, "between 0 and 2**63 - 1")

    def science(self) -> dict[str, Any]:
        """The science fields as ``{dotted key: value}``, in the order of the schema.

        Registered components that the run uses, if any, stand under ``extensions`` with their versions:
        ``{"activation squash": 1}``.
        """
        science: dict[str, Any] = {}
        for section in self._science_sections:
            science |= science_of(section)
        science["seed"] = self.seed
        used = self.from_outside()
        if used:
            science["extensions"] = used
        return science

    def idle(self) -> dict[str, str]:
        """Keys whose values have no effect in this run, each with the setting that is the reason."""
        idle = {}
        if self.data.crop != "pad":
            idle["data.pad"] = f"data.crop {self.data.crop}"
        if self.data.in_memory:
            for name in ("on_corrupt", "max_pixels", "eval_crop", "eval_interpolation"):
                idle[f"data.{name}"] = f"data.name {self.data.name}"
        if self.train.schedule in ("constant", "cosine"):
            for name in ("decay_rate", "decay_epochs"):
                idle[f"train.{name}"] = f"train.schedule {self.train.schedule}"
        if self.train.optimizer == "adamw":
            idle["train.momentum"] = "train.optimizer adamw"
        return idle

    def from_outside(self) -> dict[str, int]:
        """Versions of the registered components that the run uses, by identity such as ``activation squash``."""
        versions = {}
        for section in self._science_sections:
            for entry in section.from_outside():
                versions[entry.identity] = entry.version
        return versions

    @property
    def _science_sections(self) -> tuple[ModelConfig, DataConfig, TrainConfig]:
        """The sections of the configuration that can change a result."""
        return self.model, self.data, self.train

    def changed(self) -> dict[str, Any]:
        """The science fields that differ from their defaults, by dotted key."""
        defaults = _default_science()
        changed = {}
        for key, value in self.science().items():
            if value != defaults.get(key):
                changed[key] = value
        return changed

    @functools.cached_property
    def run_id(self) -> str:
        """The run's id, a readable part and a hash of the science: equal science is the same run, whoever asks for it.

        The hash alone is the identity: ``RunDirectory.of`` finds a run also where its readable part was another one.
        """
        return self.id_in(SCIENCE_VERSION)

    def id_in(self, version: int) -> str:
        """The run's id under a ``SCIENCE_VERSION``, today's or an earlier one."""
        is_known = self.data.resolved and self.model.resolved
        assert is_known, "what a run is depends on the files of own data and of weights; xceptlab.data.resolved looks at them"
        data_set = self.data.title or self.data.name
        readable = "-".join([data_set, *readable_parts(*self._science_sections), f"seed{self.seed}"])
        return f"{readable}-{science_hash(self.changed(), version)}"

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as in a configuration file; fields for the user's own modules only where they are set."""
        values = json.loads(json.dumps(dataclasses.asdict(self)))
        for section, defaults in OUTSIDE.items():
            part = values[section] if section else values
            for name, default in defaults.items():
                if part[name] == default:
                    del part[name]
        return values


@functools.cache
def _default_science() -> dict[str, Any]:
    return RunConfig().science()
