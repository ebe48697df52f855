"""The data sets in memory: what they hold, where they are looked for, and what is said of bad
files.
"""

import dataclasses
import hashlib
import io
import shutil
from types import MappingProxyType
from typing import get_args

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from conftest import CIFAR10
from made import photographs
from xceptlab.config.schema import DataConfig, RunConfig
from xceptlab.data import SETS, identity, require_files
from xceptlab.data import cifar as sets_of_cifar
from xceptlab.data.check import check
from xceptlab.data.module import DataModule

DIGITS = DataConfig(name="digits", size=16, crop="none")


def load(config):
    return SETS[config.name].load(config)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def test_digits_are_embedded_and_split_by_strata():
    train, test = load(DIGITS)
    assert train.images.shape == (1297, 16, 16, 3)
    assert test.images.shape == (500, 16, 16, 3)
    assert train.images.dtype == np.uint8
    assert train.images.max() == 255
    sizes = np.bincount(np.concatenate([train.labels, test.labels]))
    assert np.abs(np.bincount(test.labels) - sizes * 500 / 1797).max() <= 1
    assert train.fingerprint() != test.fingerprint()
    assert train.fingerprint() == load(DIGITS)[0].fingerprint()


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_a_module_of_the_same_functions(name):
    assert [
        what
        for what in ("require_files", "load", "class_names", "files")
        if not callable(getattr(SETS[name], what, None))
    ] == []
    assert set(SETS) == set(get_args(get_args(DataConfig.__dataclass_fields__["name"].type)[0]))


@pytest.mark.parametrize("name", ["digits", "folder", "of three parts"])
def test_a_data_set_has_one_fingerprint_whoever_asks(tmp_path, name):
    parts = photographs(tmp_path / "tree", "abc", train=4, val=2)
    if name == "of three parts":
        shutil.copytree(parts / "train", parts / "test")
    data = (
        DIGITS
        if name == "digits"
        else DataConfig(name="folder", root=str(parts), num_classes=3, size=16)
    )
    for validation in (0.0, 0.25) if name != "of three parts" else (0.0,):
        config = RunConfig(data=dataclasses.replace(data, validation=validation))
        module = DataModule(config)
        module.setup("fit")
        assert module.fingerprint() == identity.fingerprint(config.data)
        assert len(module.fingerprint().split("-")) == (3 if name == "of three parts" else 2)


@pytest.fixture
def parquet(tmp_path):
    """Writes CIFAR-like parquet files: ``parquet(split, n, picture="img", label="label")``."""
    generator = np.random.default_rng(0)

    def write(
        split, n=20, picture="img", label="label", cells=None, labels=None, folder="plain_text"
    ):
        pixels = generator.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        cells = cells or [{"bytes": png(p), "path": "x.png"} for p in pixels]
        table = pyarrow.table(
            {picture: cells, label: labels or [i % 10 for i in range(len(cells))]}
        )
        (tmp_path / folder).mkdir(exist_ok=True)
        pyarrow.parquet.write_table(table, tmp_path / folder / f"{split}-00000-of-00001.parquet")
        return pixels

    return write


def cifar(root, name="cifar10", download=False):
    return DataConfig(name=name, root=str(root), size=32, crop="pad", download=download)


@pytest.mark.parametrize(
    ("name", "picture", "label", "folder"),
    [
        ("cifar10", "img", "label", "."),
        ("cifar10", "image", "label", "plain_text"),
        ("cifar100", "img", "fine_label", "cifar100"),
        ("cifar100", "image", "label", "."),
    ],
)
def test_cifar_reads_the_hubs_layout(parquet, tmp_path, name, picture, label, folder):
    classes = int(name.removeprefix("cifar"))
    pixels = parquet(
        "train",
        2 * classes,
        picture,
        label,
        labels=[i % classes for i in range(2 * classes)],
        folder=folder,
    )
    parquet("test", 10, picture, label, folder=folder)
    train, test = load(cifar(tmp_path, name))
    assert np.array_equal(train.images, pixels)
    assert train.labels.tolist() == [i % classes for i in range(2 * classes)]
    assert len(test.labels) == 10


@pytest.mark.parametrize(
    ("given", "asked", "label", "said"),
    [
        ("cifar10", "cifar100", "label", "train holds images of 10 classes; cifar100 has 100"),
        ("cifar100", "cifar10", "fine_label", "a column label is needed; it has img, fine_label"),
        (
            "cifar100",
            "cifar10",
            "label",
            "row 10 of the column label is 10; it must be a whole number from 0 to 9",
        ),
    ],
)
def test_one_cifar_is_not_taken_for_the_other(parquet, tmp_path, given, asked, label, said):
    classes = int(given.removeprefix("cifar"))
    for split in ("train", "test"):
        parquet(split, 100, label=label, labels=[i % classes for i in range(100)])
    with pytest.raises(ValueError, match=said):
        load(cifar(tmp_path, asked))


def test_cifar_that_is_not_there_says_where_it_looked_and_what_to_do(tmp_path):
    with pytest.raises(ValueError) as error:
        require_files(cifar(tmp_path / "nowhere"))
    for text in (
        "data.root",
        str(tmp_path / "nowhere"),
        "train-*.parquet",
        "cifar-10-batches-py",
        "--data.download true",
    ):
        assert text in str(error.value)


@pytest.mark.parametrize("left", [b"", b"who"])
def test_a_download_that_was_cut_off_is_done_again(tmp_path, monkeypatch, left):
    whole = hashlib.md5(b"whole").hexdigest()
    fetched = []

    class Cifar:
        train_list = (("data_batch_1", whole), ("data_batch_2", whole))
        test_list = (("test_batch", whole),)
        meta = MappingProxyType({"filename": "batches.meta", "md5": whole})

        def __init__(self, root: str, download: bool) -> None:
            fetched.append(root)
            write("data_batch_1", "data_batch_2", "test_batch", "batches.meta")

    def write(*names: str) -> None:
        for name in names:
            (tmp_path / "cifar-10-batches-py" / name).write_bytes(b"whole")

    monkeypatch.setattr(sets_of_cifar, "_dataset", lambda config: Cifar)
    (tmp_path / "cifar-10-batches-py").mkdir()
    write("data_batch_1", "data_batch_2", "batches.meta")
    if left:
        (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(left)
    require_files(cifar(tmp_path))
    for _ in range(2):
        require_files(cifar(tmp_path, download=True))
    assert fetched == [str(tmp_path)]


def test_cifar_refuses_what_is_not_cifar(parquet, tmp_path):
    parquet("test")
    parquet("train", picture="pixels")
    with pytest.raises(ValueError, match="a column img or image is needed; it has pixels, label"):
        load(cifar(tmp_path))
    parquet("train", cells=[{"bytes": b"no image", "path": None}])
    with pytest.raises(ValueError, match="row 0 is no image"):
        load(cifar(tmp_path))
    parquet("train", cells=[{"bytes": png(np.zeros((8, 9, 3), np.uint8)), "path": None}])
    with pytest.raises(ValueError, match="row 0 is an image of 9x8; cifar10 has 32x32"):
        load(cifar(tmp_path))
    parquet("train", labels=list(range(20)))
    with pytest.raises(
        ValueError, match="row 10 of the column label is 10; it must be a whole number from 0 to 9"
    ):
        load(cifar(tmp_path))
    (tmp_path / "plain_text" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 but cut")
    with pytest.raises(ValueError, match="not a readable parquet file"):
        load(cifar(tmp_path))


def test_cifar_refuses_torchvision_files_of_another_checksum(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"not a pickle to be opened")
    with pytest.raises(ValueError, match="torchvision refuses the files of cifar10"):
        load(cifar(tmp_path))


def test_check_says_that_cifar_is_not_complete(parquet, tmp_path):
    parquet("train", 20)
    parquet("test", 10)
    assert [counts.notes for counts in check(cifar(tmp_path), False, 0)] == [
        ("train: 20 images; the original cifar10 has 50,000",),
        ("test: 10 images; the original cifar10 has 10,000",),
    ]
    assert [counts.notes for counts in check(DIGITS, False, 0)] == [(), ()]


@pytest.mark.skipif(not CIFAR10.is_dir(), reason=f"CIFAR-10's parquet files are not in {CIFAR10}")
def test_the_real_cifar10_has_its_images():
    train, test = load(cifar(CIFAR10))
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    # Krizhevsky's training set: mean of the channels 125.3, 123.0, 113.9 (the files hold re-encoded
    # images)
    assert train.images.mean(axis=(0, 1, 2)) == pytest.approx([125.3, 123.0, 113.9], abs=0.5)
