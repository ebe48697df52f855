"""Parquet files of images and labels: columns of any kind are images and labels, or one line that
says why they are not.
"""

import contextlib
import io
import os
import random

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from xceptlab import cli
from xceptlab.config.schema import DataConfig
from xceptlab.data import SETS
from xceptlab.data.sources import Unreadable, Unsound
from xceptlab.errors import Refused

ROWS = 20
SETTINGS = {"cifar10": {"size": 32, "crop": "pad"}, "folder": {"size": 24, "num_classes": 10}}
SPLITS = {"cifar10": ("train", "test"), "folder": ("train", "validation")}


def png(i):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
        buffer, "png"
    )
    return buffer.getvalue()


IMAGES = [png(i) for i in range(ROWS)]
LABELS = pyarrow.array([i % 10 for i in range(ROWS)])
URLS = [f"https://somewhere/{i}.png" for i in range(ROWS)]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "set"


def write(root, name, images, labels, **options):
    """Training and test files; the test split is always sound."""
    root.mkdir(exist_ok=True)
    sound = pyarrow.table({"image": IMAGES, "label": LABELS})
    train, test = SPLITS[name]
    table = pyarrow.table({"image": images, "label": labels})
    pyarrow.parquet.write_table(
        table, root / f"{train}-00000-of-00001.parquet", row_group_size=7, **options
    )
    pyarrow.parquet.write_table(sound, root / f"{test}-00000-of-00001.parquet")


def load(root, name):
    return SETS[name].load(DataConfig(name=name, root=str(root), **SETTINGS[name]))


def pixels(source):
    return (
        source.images
        if hasattr(source, "images")
        else np.stack([source.read(i, None) for i in range(len(source.labels))])
    )


@pytest.fixture(params=["cifar10", "folder"])
def name(request):
    return request.param


@pytest.mark.parametrize(
    "images",
    [
        pyarrow.array(IMAGES, pyarrow.large_binary()),
        pyarrow.array(IMAGES, pyarrow.binary_view()),
        [{"bytes": image, "path": "x.png"} for image in IMAGES],
        pyarrow.array(
            [{"bytes": image} for image in IMAGES],
            pyarrow.struct([("bytes", pyarrow.large_binary())]),
        ),
        [{"bytes": image, "path": None, "caption": "a picture"} for image in IMAGES],
        pyarrow.array([{"bytes": image, "path": b"caf\xe9.png"} for image in IMAGES]),
    ],
    ids=["large_binary", "binary_view", "hub", "bytes alone", "more fields", "path of bytes"],
)
@pytest.mark.parametrize(
    "kind", [pyarrow.int8(), pyarrow.uint8(), pyarrow.int32(), pyarrow.uint64()], ids=str
)
def test_columns_of_bytes_and_of_whole_numbers_of_any_width_are_read_alike(
    root, name, images, kind
):
    write(root, name, images, LABELS.cast(kind))
    train, test = load(root, name)
    assert (train.labels.dtype, train.labels.tolist()) == (np.int64, LABELS.to_pylist())
    assert np.array_equal(pixels(train), pixels(test))


def test_a_path_that_is_not_utf8_is_not_looked_at(root, name):
    cells = pyarrow.StructArray.from_arrays(
        [pyarrow.array(IMAGES), pyarrow.array([b"caf\xe9.png"] * ROWS).view(pyarrow.string())],
        names=["bytes", "path"],
    )
    write(root, name, cells, LABELS)
    train, test = load(root, name)
    assert np.array_equal(pixels(train), pixels(test))


NO_IMAGES = {
    "string": URLS,
    "null": pyarrow.nulls(ROWS),
    "list<": [[1, 2, 3]] * ROWS,
    "list<element: list<": [[[1, 2, 3]]] * ROWS,
    "int64": list(range(ROWS)),
    "struct<path: string>": [{"path": url} for url in URLS],
    "struct<bytes: null, path: string>": [{"bytes": None, "path": url} for url in URLS],
    "struct<bytes: string, path: string>": [{"bytes": url, "path": url} for url in URLS],
    "struct<bytes: list<": [{"bytes": [1, 2]}] * ROWS,
}


@pytest.mark.parametrize("kind", NO_IMAGES)
def test_a_column_of_no_images_is_refused_with_its_type(root, name, kind, capsys):
    write(root, name, NO_IMAGES[kind], LABELS)
    layers = [
        f"--data.{key}={value}"
        for key, value in {"name": name, "root": root, **SETTINGS[name]}.items()
    ]
    assert cli.main(["data", "check", *layers]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"xceptlab: {root}/train-00000-of-00001.parquet: the column image is of {kind}"
    )
    assert "must be of the bytes of encoded images" in line


NO_LABELS = {
    "string": (["cat"] * ROWS, r"of string, in row 0 'cat'; it must be of whole numbers"),
    "numerals": (["1"] * ROWS, r"of string, in row 0 '1'; it must be of whole numbers"),
    "float": (
        [i % 10 + 0.7 for i in range(ROWS)],
        r"of double, in row 0 0\.7; it must be of whole numbers",
    ),
    "whole float": (
        [float(i % 10) for i in range(ROWS)],
        r"of double, in row 0 0\.0; it must be of whole numbers",
    ),
    "nan": ([float("nan")] * ROWS, "of double, in row 0 nan; it must be of whole numbers"),
    "bool": ([True] * ROWS, "of bool, in row 0 True"),
    "list": ([[1]] * ROWS, r"of list<element: int64>, in row 0 \[1\]"),
    "nothing": (pyarrow.nulls(ROWS), "of null, in row 0 None"),
    "negative": (
        [*range(5), -1, *range(14)],
        "row 5 of the column label is -1; it must be a whole number from 0 to",
    ),
    "null": (
        [*range(9), None, *range(10)],
        "row 9 of the column label is empty; it must be a whole number from 0 to",
    ),
    "huge": (
        [0] * 8 + [2**40] * 12,
        "row 8 of the column label is 1099511627776; it must be a whole number from 0 to",
    ),
    "beyond int64": (
        pyarrow.array([2**63] * ROWS, pyarrow.uint64()),
        "row 0 of the column label is 9223372036854775808; it must",
    ),
    "smallest": (
        pyarrow.array([-(2**63)] * ROWS, pyarrow.int64()),
        "row 0 of the column label is -9223372036854775808; it must",
    ),
}


@pytest.mark.parametrize("kind", NO_LABELS)
def test_a_column_of_no_labels_is_refused_with_its_row(root, name, kind):
    labels, said = NO_LABELS[kind]
    write(root, name, IMAGES, labels)
    with pytest.raises(ValueError, match=rf"^{root}/train-00000-of-00001\.parquet: .*{said}"):
        load(root, name)


@pytest.mark.parametrize("place", [0, 8, ROWS - 1])
@pytest.mark.parametrize("empty", [None, b"", {"bytes": None}], ids=str)
def test_an_empty_cell_is_named(root, name, place, empty):
    cells = (
        [{"bytes": image} for image in IMAGES]
        if isinstance(empty, dict) or place == 8
        else list(IMAGES)
    )
    cells[place] = {"bytes": b""} if empty == b"" and place == 8 else empty
    write(root, name, cells, LABELS)
    where = (
        f"row {place} is no image"
        if name == "cifar10"
        else f"row {place % 7} of row group {place // 7}: no readable image"
    )
    with pytest.raises(
        ValueError, match=rf"train-00000-of-00001\.parquet: {where} \(the cell holds no bytes"
    ):
        pixels(load(root, name)[0])


@pytest.mark.parametrize("split", [0, 1])
def test_a_table_without_rows_is_refused(root, name, split):
    write(root, name, IMAGES, LABELS)
    empty = pyarrow.table(
        {"image": pyarrow.array([], pyarrow.binary()), "label": pyarrow.array([], pyarrow.int64())}
    )
    pyarrow.parquet.write_table(empty, root / f"{SPLITS[name][split]}-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=f"{root}: (train|val|test) holds (no image|0 classes)"):
        load(root, name)


def test_missing_and_double_columns_are_refused(root, name):
    file = root / f"{SPLITS[name][0]}-00000-of-00001.parquet"
    write(root, name, IMAGES, LABELS)
    pyarrow.parquet.write_table(
        pyarrow.table([IMAGES, IMAGES, LABELS], names=["image", "image", "label"]), file
    )
    with pytest.raises(ValueError, match="the column image is there 2 times"):
        load(root, name)
    pyarrow.parquet.write_table(
        pyarrow.table([IMAGES] + [LABELS] * 30, names=["image", *(f"label{i}" for i in range(30))]),
        file,
    )
    with pytest.raises(
        ValueError, match=r"a column label is needed; it has image, label0, .*, label8 and 21 more$"
    ):
        load(root, name)


@pytest.mark.parametrize("split", [0, 1])
def test_a_pipe_or_a_device_is_no_table(root, name, split):
    write(root, name, IMAGES, LABELS)
    file = root / f"{SPLITS[name][split]}-00000-of-00001.parquet"
    for make in (os.mkfifo, lambda path: os.symlink("/dev/zero", path)):
        file.unlink()
        make(file)
        with pytest.raises(
            ValueError, match=rf"{file.name}: not a readable parquet file \(it is no regular file\)"
        ):
            load(root, name)


def test_files_whose_names_are_not_utf8_are_read(tmp_path, name):
    root = tmp_path / os.fsdecode(b"caf\xe9")
    write(tmp_path / "plain", name, IMAGES, LABELS)
    (tmp_path / "plain").rename(root)
    train, test = load(root, name)
    assert np.array_equal(pixels(train), pixels(test))


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_file_is_read_or_refused_in_one_line(root, name, seed):
    """Bytes changed, cut out or put in anywhere, most of all in the metadata at the end: no
    exception of another kind.
    """
    write(
        root,
        name,
        IMAGES if seed % 2 else [{"bytes": image, "path": "x"} for image in IMAGES],
        LABELS,
        compression="none",
    )
    file = root / f"{SPLITS[name][0]}-00000-of-00001.parquet"
    data = bytearray(file.read_bytes())
    draw = random.Random(seed)
    for _ in range(draw.choice([1, 1, 4, 30])):
        place = (
            draw.randrange(len(data))
            if draw.random() < 0.3
            else draw.randrange(len(data) - 1200, len(data))
        )
        damage = draw.choice(["flip", "flip", "cut", "insert"])
        if damage == "flip":
            data[place] ^= 1 << draw.randrange(8)
        elif damage == "cut":
            del data[place : place + draw.randrange(1, 9)]
        else:
            data[place:place] = draw.randbytes(draw.randrange(1, 9))
    file.write_bytes(data)
    messages = []
    try:
        train, _ = load(root, name)
        for i in range(len(train.labels) if name == "folder" else 0):
            with contextlib.suppress(Unreadable):
                train.read(i, None)
    except ValueError as error:
        messages.append(error)
    assert not [
        error for error in messages if type(error) not in (Refused, Unsound) or "\n" in str(error)
    ]
