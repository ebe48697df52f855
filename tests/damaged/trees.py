"""Damaged trees of photographs, ``<split>/<class>/<file>``."""

import contextlib
import os
import shutil
import socket
from pathlib import Path
from random import Random

from damaged.case import Case
from damaged.images import IMAGES, encoded, picture
from damaged.tables import PHOTOGRAPHS

DATA = Path("data")
CHECK = ["data", "check", "--all"]
TRAIN = [
    "train",
    "--model.middle_blocks=1",
    "--model.width=0.25",
    "--train.epochs=1",
    "--train.batch_size=6",
]
NAMES = [
    *(
        b"caf\xe9.jpg",
        "caf\xe9.jpg".encode(),
        "cafe\u0301.jpg".encode(),
        "\u202ea.jpg".encode(),
        b"\xff\xfe.png",
        b"a.heic",
    ),
    *(
        b"new\nline.jpg",
        b"\x1b[31mred.jpg",
        b"[bold].jpg",
        b"%s{}.jpg",
        b"'.jpg",
        b'".jpg',
        b"a\\b.jpg",
        b"x" * 250 + b".jpg",
    ),
    *(
        b".hidden.jpg",
        b".jpg",
        b" .jpg",
        b"-c.jpg",
        b"--help",
        b"a.JPG",
        b"a.jpeg.txt",
        b"a",
        b"a.tif",
        b"a.pgm",
        b"a.gif",
    ),
    *(b"a.jpg~", b"Thumbs.db", b"._a.jpg", b"a.npy"),
]


def tree(case: Case) -> None:
    """A tree of three classes, damaged in one to three places."""
    for split, count, first in (("train", 4, 0), ("val", 2, 50)):
        for label, name in enumerate("abc"):
            folder = DATA / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.jpg").write_bytes(
                    encoded(picture(first + 3 * i + label, 40, 30), "JPEG")
                )
    for _ in range(case.rng.choice([1, 2, 3])):
        files = [
            file for file in sorted(DATA.glob("*/*/*")) if file.is_file() and not file.is_symlink()
        ]
        if files and case.rng.random() < 0.5:
            case.damage_file(case.rng.choice(files), IMAGES)
            continue
        with contextlib.suppress(OSError):  # what came before may have left nothing to do it to
            case.damage(TREES)
    command = TRAIN if case.rng.random() < 0.03 else CHECK
    case.commands.append(
        [*command, f"--data.root={DATA}", *PHOTOGRAPHS, "--runtime.wandb=disabled"]
    )


def _class(rng: Random) -> Path:
    """The folder of a class, or else of a split."""
    return rng.choice(
        [path for path in sorted(DATA.glob("*/*")) if path.is_dir()]
        or sorted(DATA.glob("*"))
        or [DATA]
    )


def _split(rng: Random) -> Path:
    return DATA / rng.choice(["train", "val"])


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)


def _image(file: Path, seed: int) -> None:
    file.write_bytes(encoded(picture(seed), "JPEG"))


# Files.


def odd_file_name(rng: Random) -> None:
    _image(Path(os.fsdecode(os.fsencode(_class(rng)) + b"/" + rng.choice(NAMES))), 90)


def folder_named_as_image(rng: Random) -> None:
    (_class(rng) / rng.choice(["a.jpg", "b.png", "sub"])).mkdir()


def pipe_named_as_image(rng: Random) -> None:
    os.mkfifo(_class(rng) / "pipe.jpg")


def socket_named_as_image(rng: Random) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(_class(rng) / "socket.jpg"))


def link_named_as_image(rng: Random) -> None:
    target = rng.choice(["nowhere.jpg", "0.jpg", "link.jpg", "/dev/null", "/dev/zero", "..", "/"])
    (_class(rng) / "link.jpg").symlink_to(target)


def link_to_a_folder_above(rng: Random) -> None:
    (_class(rng) / "loop").symlink_to(rng.choice(["..", ".", "../..", "loop"]))


def same_picture_twice(rng: Random) -> None:
    for folder in (_class(rng), _class(rng)):
        _image(folder / "same.jpg", 91)


# Classes.


def class_oddly_named(rng: Random) -> None:
    name = os.fsdecode(rng.choice(NAMES))
    for split in rng.choice([("train", "val"), ("train",), ("val",)]):
        (DATA / split / "b").rename(DATA / split / name)


def class_lost(rng: Random) -> None:
    _remove(_class(rng))


def class_emptied(rng: Random) -> None:
    folder = _class(rng)
    _remove(folder)
    folder.mkdir()


def class_is_no_folder(rng: Random) -> None:
    folder = _class(rng)
    _remove(folder)
    target = rng.choice(["", "pipe", "nowhere", "a", ".."])
    if not target:
        folder.touch()
    elif target == "pipe":
        os.mkfifo(folder)
    else:
        folder.symlink_to(target)


def class_added(rng: Random) -> None:
    folder = _split(rng) / rng.choice(["d", "0", "B", ".git", "__pycache__", "\u00e9"])
    folder.mkdir()
    if rng.random() < 0.5:
        _image(folder / "0.jpg", 92)


def class_deeper(rng: Random) -> None:
    folder = _class(rng)
    (folder / "x" / "y").mkdir(parents=True)
    for file in sorted(folder.glob("*.jpg")):
        file.rename(folder / "x" / "y" / file.name)


# Splits.


def split_flat(rng: Random) -> None:
    """As ImageNet's validation images are given out."""
    split = _split(rng)
    for number, file in enumerate(sorted(split.glob("*/*.jpg"))):
        file.rename(split / f"ILSVRC2012_val_{number:08}.JPEG")
    if rng.random() < 0.5:
        for folder in sorted(path for path in split.iterdir() if path.is_dir()):
            _remove(folder)


def split_lost(rng: Random) -> None:
    split = _split(rng)
    _remove(split)
    _leave_in_its_place(rng, split)


def split_renamed(rng: Random) -> None:
    _split(rng).rename(
        DATA / rng.choice(["test", "validation", "valid", "Train", "training", "testing"])
    )


def split_added(rng: Random) -> None:
    for name in rng.choice(["abc", "ab", "abcd"]):
        (DATA / "test" / name).mkdir(parents=True)
        _image(DATA / "test" / name / "0.jpg", 93)


def all_lost(rng: Random) -> None:
    _remove(DATA)
    _leave_in_its_place(rng, DATA)


def _leave_in_its_place(rng: Random, path: Path) -> None:
    what = rng.choice(["nothing", "folder", "file", "train", path.name])
    if what == "folder":
        path.mkdir()
    elif what == "file":
        path.touch()
    elif what != "nothing":
        path.symlink_to(what)


TREES = (
    *(
        odd_file_name,
        odd_file_name,
        folder_named_as_image,
        pipe_named_as_image,
        socket_named_as_image,
        link_named_as_image,
    ),
    *(
        link_to_a_folder_above,
        same_picture_twice,
        class_oddly_named,
        class_lost,
        class_emptied,
        class_is_no_folder,
        class_added,
    ),
    *(class_deeper, split_flat, split_lost, split_renamed, split_added, all_lost),
)
