"""Damaged parquet tables, of CIFAR and of photographs."""

import math
import os
from pathlib import Path
from random import Random
from typing import Any

import pyarrow
import pyarrow.parquet

from damaged.case import BYTES, Case
from damaged.images import IMAGES, encoded, picture

CIFAR = ["--data.name=cifar10", "--data.size=32", "--data.crop=pad"]
PHOTOGRAPHS = ["--data.name=folder", "--data.size=8", "--data.crop=resized"]


def table(case: Case) -> None:
    """Shards as the hub has them, of which one or two are damaged."""
    rng = case.rng
    cifar = rng.random() < 0.5
    classes, column, options = (10, "img", CIFAR) if cifar else (3, "image", PHOTOGRAPHS)
    files = [
        Path(f"data/{split}-{shard:05}-of-00002.parquet")
        for split in ("train", "test" if cifar else "validation")
        for shard in range(2)
    ]
    for file in files:
        labels = [*range(classes), *(rng.randrange(classes) for _ in range(4))]
        cells = [
            {"bytes": encoded(picture(label), "PNG"), "path": f"{i}.png"}
            for i, label in enumerate(labels)
        ]
        _write(rng, pyarrow.table({column: cells, "label": labels}), file)
    for file in rng.sample(files, rng.choice([1, 1, 2])):
        how = rng.random()
        if how < 0.25:
            case.damage_file(file, BYTES)
        elif how < 0.35:
            case.damage(FILES, file)
        else:
            sound = pyarrow.parquet.read_table(file)
            _write(rng, case.damage(rng.choice([LABELS, CELLS, COLUMNS]), sound), file)
    case.commands.append(
        ["data", "check", "--data.root=data", *options, *rng.choice([[], ["--all"]])]
    )


def _write(rng: Random, table: pyarrow.Table, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    compression = rng.choice(["snappy", "none", "zstd"])
    pyarrow.parquet.write_table(
        table, file, row_group_size=rng.choice([3, 1000]), compression=compression
    )


def _with_column(table: pyarrow.Table, place: int, values: Any) -> pyarrow.Table:
    return table.set_column(place, table.column_names[place], values)


# Labels.


def of_another_type(rng: Random, table: pyarrow.Table) -> pyarrow.Table:
    values = table["label"].to_pylist()
    numbers = "int8", "uint8", "int16", "uint64", "float32", "float64", "date32"
    columns = [pyarrow.array(values, getattr(pyarrow, name)()) for name in numbers]
    columns += [
        pyarrow.array([str(value) for value in values], kind)
        for kind in (pyarrow.string(), pyarrow.large_string())
    ]
    columns.append(pyarrow.array([b"%d" % value for value in values]))
    columns.append(pyarrow.array([value > 0 for value in values]))
    columns.append(pyarrow.nulls(len(values)))
    columns.append(pyarrow.array([[value] for value in values]))
    columns.append(pyarrow.array([[value] * (value % 3) for value in values]))
    columns.append(pyarrow.array([{"label": value} for value in values]))
    columns += [column.dictionary_encode() for column in (columns[0], columns[7])]
    return _with_column(table, 1, rng.choice(columns))


def of_another_value(rng: Random, table: pyarrow.Table) -> pyarrow.Table:
    values = table["label"].to_pylist()
    for _ in range(rng.choice([1, 3])):
        values[rng.randrange(len(values))] = rng.choice(
            [None, -1, 1000, 2**31, 2**62, 0.5, math.nan, math.inf, 1e300]
        )
    if any(isinstance(value, float) for value in values):
        values = [None if value is None else float(value) for value in values]
    return _with_column(table, 1, pyarrow.array(values))


LABELS = of_another_type, of_another_type, of_another_value


# Cells with images.


def damaged_images(rng: Random, table: pyarrow.Table) -> pyarrow.Table:
    cells = table[0].to_pylist()
    for _ in range(rng.choice([1, 5])):
        cell = rng.choice(cells)
        cell["bytes"] = rng.choice(IMAGES)(rng, cell["bytes"])
    return _with_column(table, 0, pyarrow.array(cells, table[0].type))


def null_images(rng: Random, table: pyarrow.Table) -> pyarrow.Table:
    cells = table[0].to_pylist()
    for _ in range(rng.choice([1, 5, 100])):
        cells[rng.randrange(len(cells))] = rng.choice(
            [None, {"bytes": None, "path": "x.png"}, {"bytes": b"", "path": None}]
        )
    return _with_column(table, 0, pyarrow.array(cells))


def images_otherwise(rng: Random, table: pyarrow.Table) -> pyarrow.Table:
    """The images not as ``{bytes, path}``, but plain, as text, as pixels, or not at all."""
    images = [cell["bytes"] for cell in table[0].to_pylist()]
    pixels = [list(image[:12]) for image in images]
    columns = [
        pyarrow.array(images),
        pyarrow.array(images, pyarrow.large_binary()),
        pyarrow.array(images).dictionary_encode(),
        pyarrow.array([image[:20] for image in images], pyarrow.binary(20)),
        pyarrow.array([f"https://example.org/{i}.png" for i in range(len(images))]),
        pyarrow.array(pixels, pyarrow.list_(pyarrow.uint8())),
        pyarrow.array([[row] * 12 for row in pixels]),
        pyarrow.array([[{"bytes": image}] for image in images]),
        pyarrow.array([{"bytes": image} for image in images]),
        pyarrow.array([{"path": "", "bytes": image, "more": 1} for image in images]),
        pyarrow.array([{"path": "x.png"} for _ in images]),
        pyarrow.array([{"bytes": "text"} for _ in images]),
        pyarrow.array([{"bytes": row} for row in pixels]),
        pyarrow.array(range(len(images))),
        pyarrow.array([0.5 for _ in images]),
        pyarrow.nulls(len(images)),
    ]
    return _with_column(table, 0, rng.choice(columns))


CELLS = damaged_images, null_images, images_otherwise, images_otherwise


# Columns and rows.


def column_renamed(rng: Random, table: pyarrow.Table) -> pyarrow.Table:
    names = list(table.column_names)
    names[rng.randrange(2)] = rng.choice(
        ["", "image", "img", "label", "fine_label", "x", "Label", "é", "[bold]", "image\n", "a.b"]
    )
    return table.rename_columns(names)


def column_lost(rng: Random, table: pyarrow.Table) -> pyarrow.Table:
    return table.select(rng.choice([[0], [1], []]))


def column_added(rng: Random, table: pyarrow.Table) -> pyarrow.Table:
    return table.append_column(
        rng.choice(["image", "img", "label", "x", ""]), pyarrow.array(range(len(table)))
    )


def columns_swapped(rng: Random, table: pyarrow.Table) -> pyarrow.Table:
    return table.rename_columns(table.column_names[::-1])


def rows_lost(rng: Random, table: pyarrow.Table) -> pyarrow.Table:
    return table.slice(0, rng.choice([0, 0, 1, 3]))


COLUMNS = column_renamed, column_lost, column_added, columns_swapped, rows_lost


# Files.


def file_lost(rng: Random, file: Path) -> None:
    file.unlink()


def file_is_a_folder(rng: Random, file: Path) -> None:
    file.unlink()
    file.mkdir()


def file_is_a_link(rng: Random, file: Path) -> None:
    file.unlink()
    file.symlink_to(rng.choice(["nowhere", file.name, "/dev/null", "/"]))


def file_is_a_pipe(rng: Random, file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def file_of_another_format(rng: Random, file: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\n"
    file.write_bytes(
        rng.choice([b"img,label\n1,2\n", b"PAR1PAR1", b"PAR1" + bytes(20) + b"PAR1", pointer])
    )


def file_misnamed(rng: Random, file: Path) -> None:
    end = rng.choice(["-of-00003", "-of-00000", "", "-of-x", "-of-99999999999999999999"])
    file.rename(file.with_name(file.name.replace("-of-00002", end)))


def file_elsewhere(rng: Random, file: Path) -> None:
    folder = file.parent / "other"
    folder.mkdir(exist_ok=True)
    file.rename(folder / file.name)


FILES = (
    file_lost,
    file_is_a_folder,
    file_is_a_link,
    file_is_a_pipe,
    file_of_another_format,
    file_misnamed,
    file_elsewhere,
)
