"""Photographs: one image whatever it lies in, decoded as torchvision and Pillow do, prepared once,
checked before use.
"""

import contextlib
import errno
import gzip
import io
import math
import os
import pickle
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision.transforms import functional as F

from conftest import PHOTOGRAPHS, ROOT, listen_to_ctrl_c
from xceptlab import cli
from xceptlab.config.schema import DataConfig
from xceptlab.data import SETS, crop, ilsvrc, imagenet, order, sources, splits
from xceptlab.data.check import Counts, check
from xceptlab.data.layouts import find_layout, prepared_folder
from xceptlab.data.photographs import Photographs, decode
from xceptlab.data.prepare import prepare
from xceptlab.data.shards import find_shards
from xceptlab.data.split import Split
from xceptlab.data.tree import Tree
from xceptlab.errors import Refused

CLASSES = ("n01", "n02", "n03")


@pytest.fixture(autouse=True)
def _imagenet_of_three_classes(monkeypatch):
    monkeypatch.setitem(DataConfig.CLASSES, "imagenet", 3)


def config(root, **changes):
    """An own data set; the original tar files are ImageNet's only."""
    name = "imagenet" if (Path(root) / "ILSVRC2012_img_train.tar").exists() else "folder"
    return DataConfig(**{"name": name, "root": str(root), "num_classes": 3, "size": 24, **changes})


def load(root, **changes):
    return SETS["imagenet"].load(config(root, **changes))


def jpeg(i, mode="RGB", form="JPEG"):
    """A smooth picture of its own for each number."""
    y, x = np.mgrid[0 : 60 + i % 7, 0 : 80 - i % 5] / 80
    pixels = (
        np.stack([np.sin(5 * x + i), np.cos(4 * y + i), np.sin(3 * (x + y) + i)], -1) * 127 + 128
    )
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(buffer, form)
    return buffer.getvalue()


def encoded():
    """Per split and class the files: name and bytes."""
    counts = {"train": 8, "val": 3}
    return {
        split: {
            name: [(f"{name}_{i}.JPEG" if split == "train" else f"ILSVRC2012_val_{k * n + i:08d}.JPEG", jpeg(100 * k + i + n))
                   for i in range(n)]
            for k, name in enumerate(CLASSES)
        }
        for split, n in counts.items()
    }  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def tree(tmp_path):
    for split, classes in encoded().items():
        for name, files in classes.items():
            (tmp_path / "tree" / split / name).mkdir(parents=True)
            for file, data in files:
                (tmp_path / "tree" / split / name / file).write_bytes(data)
    return tmp_path / "tree"


def add(tar, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def packed(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:") as tar:
        for name, data in files:
            add(tar, name, data)
    return buffer.getvalue()


@pytest.fixture
def tars(tmp_path):
    """The three original files, the classes in another order than their names', numbered in a third
    one.
    """
    root = tmp_path / "tars"
    root.mkdir()
    files = encoded()
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w:") as tar:
        for name in reversed(CLASSES):
            add(tar, f"{name}.tar", packed(reversed(files["train"][name])))
    val = [
        (file, data, name)
        for name, photographs in files["val"].items()
        for file, data in photographs
    ]
    (root / "ILSVRC2012_img_val.tar").write_bytes(packed([(file, data) for file, data, _ in val]))
    number = {"n02": 1, "n03": 2, "n01": 3}
    synsets = np.array(
        [(i, name, 0) for name, i in number.items()] + [(4, "n00", 3)],
        dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")],
    )
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets[:, None]})
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as kit:
        add(kit, "ILSVRC2012_devkit_t12/data/meta.mat", meta.getvalue())
        truth = "".join(f"{number[name]}\n" for _, _, name in sorted(val))
        add(
            kit, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", truth.encode()
        )
    return root


@pytest.fixture
def shards(tmp_path):
    root = tmp_path / "shards"
    (root / "data").mkdir(parents=True)
    for split, classes in encoded().items():
        rows = [(data, label) for label, files in enumerate(classes.values()) for _, data in files]
        cells = [{"bytes": data, "path": "x.JPEG"} for data, _ in rows]
        half = len(rows) // 2
        for part, piece in enumerate((slice(None, half), slice(half, None))):
            table = pyarrow.table(
                {"image": cells[piece], "label": [label for _, label in rows[piece]]}
            )
            name = {"train": "train", "val": "validation"}[split]
            pyarrow.parquet.write_table(
                table, root / "data" / f"{name}-{part:05d}-of-00002.parquet", row_group_size=5
            )
    return root


def everything(source):
    return torch.stack([source.read(i, None) for i in range(len(source.labels))])


def test_every_layout_has_the_same_photographs_under_the_same_numbers(tree, tars, shards):
    for one, *others in zip(load(tree), load(tars), load(shards), strict=True):
        for other in others:
            assert one.labels.tolist() == other.labels.tolist()
            assert torch.equal(everything(one), everything(other))
            assert one.fingerprint() == other.fingerprint()


def test_photographs_that_are_nowhere_say_what_was_looked_for(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"looked for the folders train/<class>/ and val/<class>/, or train-\*.parquet",
    ):
        find_layout(config(tmp_path / "nowhere", name="imagenet"))


def test_a_photograph_has_the_size_that_is_asked_for_and_varies_with_its_draws(tree):
    train, _ = load(tree)
    first, second = order.draws(0, 0, np.arange(2))
    images = [train.read(0, draws) for draws in (None, first, second)]
    assert {(image.shape, image.dtype) for image in images} == {((24, 24, 3), torch.uint8)}
    assert len({image.numpy().tobytes() for image in images}) == 3
    assert torch.equal(train.read(0, first), images[1])


def test_a_tar_file_is_searched_once(tars, tmp_path, monkeypatch):
    first = load(tars)[0]

    def searched(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tarfile, "open", searched)
    assert torch.equal(everything(load(tars)[0]), everything(first))
    assert len(list((tmp_path / "cache" / "xceptlab").iterdir())) == 2
    os.utime(tars / "ILSVRC2012_img_val.tar", ns=(1, 1))  # another file under the same name
    with pytest.raises(KeyboardInterrupt):
        load(tars)


def test_of_several_processes_one_searches_a_tar_file_and_says_how_far_it_is(
    tars, monkeypatch, capsys
):
    """Threads do for processes: flock tells open files apart, not who opened them."""
    searches, search = [], ilsvrc._train_rows

    def slow(file):
        searches.append(file)
        time.sleep(0.3)
        yield from search(file)

    monkeypatch.setattr(ilsvrc, "_train_rows", slow)
    monkeypatch.setattr(ilsvrc, "SAY_SECONDS", 0)
    with ThreadPoolExecutor(3) as threads:
        archives = list(threads.map(ilsvrc.train_archive, [tars / "ILSVRC2012_img_train.tar"] * 3))
    assert len(searches) == 1
    assert all(archive.table.equals(archives[0].table) for archive in archives)
    assert (
        "ILSVRC2012_img_train.tar: finding its photographs, which is needed once: 2 of 3 classes"
        in capsys.readouterr().err
    )


def test_a_search_that_is_killed_leaves_nothing_half_done(tars, tmp_path):
    """As it begins to write; the next process searches again."""
    search = (
        "import os, signal; from pathlib import Path; from xceptlab.data import ilsvrc;"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
        f"ilsvrc.train_archive(Path({str(tars / 'ILSVRC2012_img_train.tar')!r}))"
    )
    assert subprocess.run([sys.executable, "-c", search]).returncode == -signal.SIGKILL
    (leftover,) = (tmp_path / "cache" / "xceptlab").iterdir()
    assert leftover.suffix == ".tmp"
    assert len(load(tars)[0].labels) == 24


def test_a_tar_file_without_photographs_is_refused(tars):
    (tars / "ILSVRC2012_img_train.tar").write_bytes(packed([("n01.tar", packed([]))]))
    with pytest.raises(ValueError, match=r"ILSVRC2012_img_train\.tar: holds no photograph"):
        load(tars)


@pytest.mark.parametrize(
    "name", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"]
)
@pytest.mark.parametrize("part", [0.2, 0.5])
def test_a_tar_file_that_is_cut_short_is_refused(tars, name, part):
    file = tars / name
    data = file.read_bytes()
    file.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ValueError, match=r"cut short|not a whole tar file|not the development kit"):
        load(tars)


def test_a_size_of_thousands_of_digits_is_an_unreadable_image():
    with pytest.raises(Refused):
        decode(b"P6 " + b"1" * 5000 + b" 1 255\n")


@pytest.mark.parametrize("content", [b"", b"<html>not here</html>" * 60])
def test_what_is_no_tar_file_is_refused(tars, content):
    (tars / "ILSVRC2012_img_train.tar").write_bytes(content)
    with pytest.raises(
        ValueError,
        match=r"ILSVRC2012_img_train.tar: (not a tar file|holds no photograph|the tar file is cut short)",
    ):
        load(tars)


def test_a_parquet_file_with_wrong_bytes_is_named(shards):
    file = min(shards.glob("**/train-*.parquet"))
    place = pyarrow.parquet.ParquetFile(file).metadata.row_group(0).column(0)
    data = bytearray(file.read_bytes())
    start = place.dictionary_page_offset or place.data_page_offset
    for i in range(start + 40, start + place.total_compressed_size):
        data[i] ^= 0xFF
    file.write_bytes(data)
    train = load(shards)[0]
    with pytest.raises(sources.Unreadable, match=r"train-.*parquet"):
        train.read(0, None)


def test_a_tar_file_cut_between_two_members_is_refused(tars):
    file = tars / "ILSVRC2012_img_val.tar"
    with tarfile.open(file) as tar:
        fourth = tar.getmembers()[4].offset
    file.write_bytes(file.read_bytes()[:fourth])
    with pytest.raises(ValueError, match="cut short; it ends without its closing mark"):
        load(tars)


def test_validation_photographs_without_labels_are_refused(tars):
    (tars / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(
        ValueError, match=r"ILSVRC2012_devkit_t12.tar.gz is missing, which has the labels"
    ):
        load(tars)
    with pytest.raises(Refused, match=r"ILSVRC2012_devkit_t12.tar.gz is missing"):
        imagenet.files(DataConfig(name="imagenet", root=str(tars)))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_an_image_is_known_by_its_content_not_its_name(form):
    data = jpeg(3, form=form)
    wanted = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(decode(data).permute(1, 2, 0), wanted)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_of_every_kind_is_decoded_as_pillow_does(mode):
    data = jpeg(3, mode)
    wanted = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decode(data).permute(1, 2, 0).numpy() - wanted).max() <= (
        1 if mode == "CMYK" else 0
    )


def test_a_png_of_16_bits_keeps_its_brightness():
    buffer = io.BytesIO()
    Image.fromarray((np.linspace(0, 65535, 400).reshape(20, 20)).astype(np.uint16)).save(
        buffer, "PNG"
    )
    image = decode(buffer.getvalue()).float()
    assert image.min() <= 1
    assert image.max() >= 254
    assert image.mean() == pytest.approx(127.5, abs=1)


@pytest.mark.parametrize(("form", "kind"), [("PPM", "uint16"), ("TIFF", "int32")])
def test_other_files_of_16_bits_keep_it_too(form, kind):
    gradient = np.linspace(0, 65535, 400).reshape(20, 20)
    buffer = io.BytesIO()
    Image.fromarray(gradient.astype(kind)).save(buffer, form)
    assert decode(buffer.getvalue()).float().mean() == pytest.approx(127.5, abs=1)


def test_pixels_of_no_known_range_are_refused():
    buffer = io.BytesIO()
    Image.fromarray(np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)).save(buffer, "TIFF")
    with pytest.raises(Refused, match="its pixels are decimal numbers"):
        decode(buffer.getvalue())


def test_raw_pixels_have_the_same_limits():
    with pytest.raises(Refused, match=r"exceeds data\.max_pixels, 50"):
        decode(b"P6 10 10 255\n" + bytes(300), max_pixels=50)
    with pytest.raises(Refused, match="it has no pixels"):
        decode(b"P6 0 0 255\n")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_exif_data_say(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg(3))).save(buffer, "JPEG", exif=exif)
    from PIL import ImageOps

    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue()))))
    assert np.array_equal(decode(buffer.getvalue()).permute(1, 2, 0), wanted)


@pytest.mark.parametrize(
    "data", [b"", b"no image", jpeg(3)[:40], jpeg(3)[:700], jpeg(3, form="PNG")[:400]]
)
def test_what_cannot_be_decoded_raises_one_error(data):
    with pytest.raises(ValueError):
        decode(data)


def test_of_damaged_jpegs_those_cut_short_are_refused_and_wrong_bytes_inside_pass():
    """As the README says; libjpeg conceals the latter."""
    data = jpeg(3)
    for part in (0.3, 0.6, 0.9, 0.99):
        with pytest.raises(ValueError, match=r"(?i)truncated"):
            decode(data[: int(part * len(data))])
    wrong = bytearray(data)
    wrong[900] ^= 0x55
    assert decode(bytes(wrong)).shape == (3, 63, 77)
    assert not torch.equal(decode(bytes(wrong)), decode(data))


@pytest.mark.skipif(
    not PHOTOGRAPHS.is_dir(), reason=f"the sample photographs are not in {PHOTOGRAPHS}"
)
def test_crops_of_real_photographs_are_those_of_pillow_and_torchvision(tmp_path):
    """Above 35 dB on average against the crop that torchvision's RandomResizedCrop cuts with Pillow
    at the same place.
    """
    for split in ("train", "val"):
        (tmp_path / split).symlink_to(PHOTOGRAPHS)
    classes = len(list(PHOTOGRAPHS.iterdir()))
    train, _ = SETS["imagenet"].load(
        DataConfig(name="folder", root=str(tmp_path), num_classes=classes, size=224)
    )
    ratios = []
    for i, draw in enumerate(order.draws(0, 0, np.arange(len(train.labels)))):
        image = train.read(i, draw)
        with Image.open(train.store.name(i)) as file:
            whole = file.convert("RGB")
        wanted = F.resized_crop(
            whole, *crop.random_box(draw, whole.height, whole.width), [224, 224]
        )
        wanted = F.hflip(wanted) if draw[2] < 0.5 else wanted
        error = np.square(image.numpy().astype(float) - np.asarray(wanted)).mean()
        ratios.append(10 * math.log10(255**2 / max(error, 1e-3)))
    assert np.mean(ratios) > 35
    assert np.min(ratios) > 30


@pytest.mark.parametrize(("mode", "other"), [("bilinear", "bicubic"), ("bicubic", "bilinear")])
def test_the_evaluations_crop_is_resized_as_pillow_does(tree, mode, other):
    """Within a rounding or two of the crop that Pillow resizes with the same filter; the other
    filter is farther away.
    """

    def distance(resample):
        found = []
        for i in range(4):
            with Image.open(test.store.name(i)) as file:
                top, left, side = (file.height - 48) // 2, (file.width - 48) // 2, 48
                crop = file.crop((left, top, left + side, top + side))
                wanted = crop.resize((24, 24), Image.Resampling[resample.upper()])
            found.append(np.abs(test.read(i, None).numpy().astype(int) - np.asarray(wanted)).max())
        return max(found)

    _, test = load(tree, eval_crop=0.75, eval_interpolation=mode)
    generator = np.random.default_rng(0)
    for file in (tree / "val").rglob("*.JPEG"):
        Image.fromarray(generator.integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(file, "PNG")
    assert distance(mode) <= 2 < distance(other)


def test_training_is_the_same_whatever_evaluation_resizes_by(tree):
    draws = order.draws(0, 0, np.arange(1))[0]
    one, other = (load(tree, eval_interpolation=mode)[0] for mode in ("bilinear", "bicubic"))
    assert torch.equal(one.read(0, draws), other.read(0, draws))
    assert not torch.equal(one.read(0, None), other.read(0, None))


@pytest.mark.skipif(
    not PHOTOGRAPHS.is_dir(), reason=f"the sample photographs are not in {PHOTOGRAPHS}"
)
def test_timms_preprocessing_makes_timms_images(tmp_path):
    """Above 35 dB on average against the transform that timm evaluates its legacy_xception with;
    ours by default is below 30.
    """
    import timm
    from timm.data import create_transform, resolve_data_config

    transform = create_transform(
        **resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg("legacy_xception").to_dict())
    )
    for split in ("train", "val"):
        (tmp_path / split).symlink_to(PHOTOGRAPHS)
    classes = len(list(PHOTOGRAPHS.iterdir()))

    def likeness(**changes):
        _, test = SETS["imagenet"].load(
            DataConfig(name="folder", root=str(tmp_path), num_classes=classes, **changes)
        )
        ratios = []
        for i in range(0, len(test.labels), 4):
            with Image.open(test.store.name(i)) as file:
                wanted = transform(file.convert("RGB")).permute(1, 2, 0) * 127.5 + 127.5
            error = np.square(test.read(i, None).numpy().astype(float) - wanted.numpy()).mean()
            ratios.append(10 * math.log10(255**2 / max(error, 1e-3)))
        return np.mean(ratios)

    assert likeness(eval_crop=0.8975, eval_interpolation="bicubic", exif_orientation=False) > 35
    assert likeness() < 30


# ---- prepared photographs ------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [90, 0])
@pytest.mark.parametrize("workers", [0, 2])
def test_prepared_photographs_are_the_reduced_originals(tree, quality, workers, monkeypatch):
    monkeypatch.setattr("xceptlab.data.prepare.MEMBERS", 10)
    changes = {"short_side": 32, "quality": quality}
    progress = list(prepare(config(tree, **changes), workers))
    assert progress[0] == (0, 33)
    assert progress[-1] == (33, 33)
    for original, reduced in zip(load(tree), load(tree, **changes), strict=True):
        assert original.labels.tolist() == reduced.labels.tolist()
        difference = everything(original).float() - everything(reduced).float()
        assert difference.abs().mean() < (4 if quality else 3)
        for i in range(len(reduced.labels)):
            assert min(decode(reduced.store.read(i)).shape[1:]) == 32
    assert not list((tree / "prepared").glob("*/*.part"))


def test_an_interrupted_preparation_continues_to_the_same_bytes(tree, tmp_path, monkeypatch):
    monkeypatch.setattr("xceptlab.data.prepare.MEMBERS", 5)
    whole = config(tree, short_side=32, cache=str(tmp_path / "whole"))
    list(prepare(whole, 0))
    broken = config(tree, short_side=32, cache=str(tmp_path / "broken"))
    steps = prepare(broken, 0)
    for _ in range(3):
        next(steps)
    steps.close()
    with pytest.raises(ValueError, match="no photographs of 32 pixels are prepared"):
        SETS["folder"].load(broken)
    (folder,) = (tmp_path / "broken").iterdir()
    (folder / "train-00003.part").write_bytes(b"killed in here")
    assert next(prepare(broken, 0)) == (10, 33)
    list(prepare(broken, 0))
    (other,) = (tmp_path / "whole").iterdir()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        f.name: f.read_bytes() for f in other.iterdir()
    }
    assert next(prepare(broken, 0)) == (33, 33)


STUCK = """
import sys, time
from xceptlab import cli
from xceptlab.data import prepare
prepare._reduced = lambda *_: time.sleep(600)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)]
)
def test_a_preparation_that_is_stopped_ends_at_once_and_so_do_its_workers(tree, number, code):
    layers = [
        "--data.name=folder",
        f"--data.root={tree}",
        "--data.num_classes=3",
        "--data.size=24",
        "--data.short_side=32",
    ]
    command = [sys.executable, "-c", STUCK, "data", "prepare", *layers, "--runtime.workers=2"]
    process = subprocess.Popen(
        command,
        start_new_session=True,
        preexec_fn=listen_to_ctrl_c,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while len(list((tree / "prepared").glob("*/*.part"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, number)
    assert process.wait(300) == code
    # which ends once nobody holds it any more: the workers are gone, too
    assert "Traceback" not in process.stderr.read()
    list(prepare(config(tree, short_side=32), 0))
    assert not list((tree / "prepared").glob("*/*.part"))


def test_a_killed_worker_of_a_preparation_is_one_line_and_the_next_one_continues(tree):
    layers = ["--data.name=folder", f"--data.root={tree}", "--data.num_classes=3", "--data.size=24"]
    killed = STUCK.replace("time.sleep(600)", "os.kill(os.getpid(), 9)").replace("time\n", "os\n")
    command = [sys.executable, "-c", killed, "data", "prepare", *layers, "--data.short_side=32"]
    done = subprocess.run([*command, "--runtime.workers=1"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "xceptlab: a process that prepares photographs was killed, as where the memory runs out; "
    )
    list(prepare(config(tree, short_side=32), 0))


def test_a_flipped_bit_in_a_prepared_photograph_is_noticed(tree):
    list(prepare(config(tree, short_side=32), 0))
    train, _ = load(tree, short_side=32)
    file = train.store.files[0]
    data = bytearray(file.read_bytes())
    data[train.store.table["offset"][4].as_py() + 200] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"0000/00000004.jpg: no readable image \(its checksum"):
        everything(train)
    lines = [line for line in check(config(tree, short_side=32), True, 0) if isinstance(line, str)]
    assert len(lines) == 1


def test_prepared_photographs_of_another_set_are_not_mixed_in(tree, tmp_path):
    cache = str(tmp_path / "scratch")
    list(prepare(config(tree, short_side=32, cache=cache), 0))
    (tree / "train" / "n01" / "n01_7.JPEG").unlink()
    with pytest.raises(ValueError, match=r"data.cache: .* holds photographs of other originals"):
        list(prepare(config(tree, short_side=32, cache=cache), 0))


@pytest.mark.parametrize("layout", ["tree", "tars", "shards"])
def test_originals_with_the_same_labels_but_other_bytes_are_told_apart(layout, request):
    root = request.getfixturevalue(layout)
    list(prepare(config(root, short_side=32), 0))
    assert next(prepare(config(root, short_side=32), 0)) == (33, 33)
    if layout == "tree":
        with open(root / "train" / "n01" / "n01_3.JPEG", "ab") as file:
            file.write(b"x")
    elif layout == "tars":
        val = encoded()["val"]
        files = [
            (name, data + b"x" * (name == "ILSVRC2012_val_00000004.JPEG"))
            for one in val.values()
            for name, data in one
        ]
        (root / "ILSVRC2012_img_val.tar").write_bytes(packed(files))
    else:
        file = root / "data" / "train-00001-of-00002.parquet"
        table = pyarrow.parquet.read_table(file)
        cells = table["image"].to_pylist()
        cells[3]["bytes"] += b"x" * 100
        pyarrow.parquet.write_table(
            table.set_column(0, "image", pyarrow.array(cells)), file, row_group_size=5
        )
    with pytest.raises(ValueError, match="holds photographs of other originals"):
        next(prepare(config(root, short_side=32), 0))


def test_a_tree_and_the_tar_files_it_was_unpacked_from_are_the_same_originals(tree, tars, tmp_path):
    cache = str(tmp_path / "scratch")
    list(prepare(config(tree, short_side=32, cache=cache), 0))
    assert next(prepare(config(tars, short_side=32, cache=cache), 0)) == (33, 33)


@pytest.mark.parametrize("workers", [0, 2])
def test_preparation_names_what_it_skips(tree, workers, capsys):
    bad = tree / "train" / "n02" / "n02_3.JPEG"
    bad.write_bytes(b"no image")
    list(prepare(config(tree, short_side=32, on_corrupt="skip"), workers))
    assert (
        capsys.readouterr().err
        == f"xceptlab: {bad}: no readable image (cannot identify image file); its bytes are kept as they are\n"
    )
    train, _ = load(tree, short_side=32)
    assert train.store.read(11) == b"no image"
    (line,) = (
        line for line in check(config(tree, short_side=32), True, 0) if isinstance(line, str)
    )
    assert "0001/00000011.jpg: no readable image" in line


def test_a_photograph_that_is_small_already_is_not_enlarged(tree):
    list(prepare(config(tree, short_side=500), 0))
    train, _ = load(tree, short_side=500)
    assert (
        decode(train.store.read(0)).shape[1:]
        == decode((tree / "train" / "n01" / "n01_0.JPEG").read_bytes()).shape[1:]
    )


def test_the_prepared_files_are_plain_tar_files(tree):
    list(prepare(config(tree, short_side=32), 0))
    (folder,) = (tree / "prepared").iterdir()
    table = pyarrow.feather.read_table(folder / "train.arrow").to_pylist()
    with tarfile.open(folder / "train-00000.tar") as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == [row["name"] for row in table]
        assert [zlib.crc32(tar.extractfile(member).read()) for member in members] == [
            row["crc"] for row in table
        ]


# ---- what is wrong with a data set ---------------------------------------------------------------


def test_check_counts_and_names_what_does_not_decode(tree):
    (tree / "train" / "n02" / "n02_3.JPEG").write_bytes(b"no image")
    (tree / "val" / "n03" / "ILSVRC2012_val_00000007.JPEG").write_bytes(jpeg(1)[:500])
    (tree / "val" / "n03" / "README.txt").write_text("left alone")
    for workers in (0, 2):
        train, bad, val, other = list(check(config(tree), True, workers))
        assert train == Counts("train", 24, 24, 3, 8, 8)
        assert "n02_3.JPEG: no readable image" in bad
        (note,) = val.notes
        assert val == Counts("test", 9, 9, 3, 3, 3, (note,))
        assert note.startswith(f"{tree / 'val' / 'n03'}: README.txt: left alone, not .jpeg, .jpg")
        assert "ILSVRC2012_val_00000007.JPEG: no readable image" in other


def test_check_lists_all_that_is_wrong_with_the_folders_at_once(tree, capsys):
    for empty in ("train/n00", "train/n04", "val/n98", "val/n99"):
        (tree / empty).mkdir()
    faults = list(check(config(tree, num_classes=2), False, 0))
    assert faults == [
        f"{tree}: train holds 5 classes, 2 were expected; see data.num_classes",
        f"{tree / 'val'}: the class n98 is not among those of train",
        f"{tree / 'val'}: the class n99 is not among those of train",
        f"{tree / 'train' / 'n00'}: holds no image (.jpeg, .jpg, .png, .webp, .bmp, .ppm)",
        f"{tree / 'train' / 'n04'}: holds no image (.jpeg, .jpg, .png, .webp, .bmp, .ppm)",
    ]
    with pytest.raises(
        ValueError,
        match=r"2 were expected; see data.num_classes \(and 4 more faults: `xceptlab data check`",
    ):
        load(tree, num_classes=2)
    assert (
        cli.main(
            [
                "data",
                "check",
                "--data.name=folder",
                f"--data.root={tree}",
                "--data.num_classes=2",
                "--data.size=24",
            ]
        )
        == 2
    )
    said = capsys.readouterr()
    assert said.out == "Faults: 5\n"
    assert said.err.splitlines() == [f"xceptlab: {fault}" for fault in faults]


def test_an_empty_tree_is_a_fault(tree):
    shutil.rmtree(tree / "train")
    (tree / "train").mkdir()
    faults = list(check(config(tree), False, 0))
    assert f"{tree}: train holds no image (.jpeg, .jpg, .png, .webp, .bmp, .ppm)" in faults
    assert f"{tree / 'val'}: the class n01 is not among those of train" in faults


def test_a_class_that_is_empty_everywhere_is_told_of_every_part(tree):
    for part in ("train", "val"):
        shutil.rmtree(tree / part / "n02")
        (tree / part / "n02").mkdir()
    faults = list(check(config(tree), False, 0))
    assert [fault.partition(": ")[0] for fault in faults] == [
        str(tree / part / "n02") for part in ("train", "val")
    ]


def test_check_says_where_the_sizes_are_not_the_originals(tree, monkeypatch):
    original = config(tree, name="imagenet", num_classes=0)
    assert [counts.notes for counts in check(original, False, 0)] == [
        ("train: 24 images; the original imagenet has 1,281,167",),
        ("test: 9 images; the original imagenet has 50,000",),
    ]
    monkeypatch.setitem(DataConfig.IMAGES, "imagenet", (24, 9))
    assert [counts.notes for counts in check(original, False, 0)] == [(), ()]
    # other photographs
    assert [counts.notes for counts in check(config(tree), False, 0)] == [(), ()]


def test_check_looks_at_what_a_run_uses(tree, xceptlab):
    """The options mean what they mean in training; what they leave out may be corrupt."""
    used = config(tree, validation=0.25, train_images=12, test_images=6)
    train, validation, test = list(check(used, True, 0))
    assert train == Counts("train", 9, 24, 3, 3, 3)
    assert validation == Counts("validation", 3, 24, 3, 1, 1)
    assert test == Counts("test", 6, 9, 3, 2, 2)
    _, members = splits(used)["train"]
    (left_out, *_) = set(range(24)) - set(members) - set(splits(used)["validation"][1])
    broken = sorted((tree / "train").rglob("*.JPEG"))
    broken[left_out].write_bytes(b"no image")
    assert len(list(check(used, True, 0))) == 3
    broken[members[0]].write_bytes(b"no image")
    assert [found for found in check(used, True, 0) if isinstance(found, str)] != []
    with pytest.raises(
        ValueError,
        match=r"data\.validation: 0\.01 is not allowed; it holds out none of the 24 training images",
    ):
        splits(config(tree, validation=0.01))
    layers = [
        "--data.name=folder",
        f"--data.root={tree}",
        "--data.num_classes=3",
        "--data.size=24",
        "--data.test_images=6",
    ]
    assert "6 of 9" in xceptlab("data", "check", *layers).stdout
    refused = xceptlab("data", "check", *layers, "--data.train_images=25")
    assert (refused.returncode, refused.stderr) == (
        2, "xceptlab: data.train_images: 25 is not allowed; there are 24 images (0 uses all)\n",
    )  # fmt: skip


@pytest.fixture
def checked(tree, capfd):
    """``checked("--all", ...)``: exit code, output and lines on standard error of a check of the
    tree.
    """

    def run(*arguments):
        layers = [
            "--data.name=folder",
            f"--data.root={tree}",
            "--data.size=24",
            "--runtime.workers=0",
        ]
        code = cli.main(["data", "check", *arguments, *layers])
        said = capfd.readouterr()
        return code, said.out, said.err.splitlines()

    return run


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize("absent", [True, False])
def test_a_class_without_images_to_evaluate_is_a_fault(tree, checked, part, absent):
    if part == "test":
        shutil.copytree(tree / "val", tree / "test")
    shutil.rmtree(tree / part / "n02")
    if not absent:
        (tree / part / "n02").mkdir()
    code, out, errors = checked()
    assert code == 2
    assert errors == ["xceptlab: test holds no image of class n02"]
    assert out.splitlines()[-1] == "Faults: 1"
    if part == "test":
        shutil.rmtree(tree / "val" / "n03")
        assert checked()[2] == [
            "xceptlab: validation holds no image of class n03",
            "xceptlab: test holds no image of class n02",
        ]


def test_classes_that_a_run_leaves_out_are_a_warning(checked):
    code, _, errors = checked("--data.test_images=2", "--data.validation=0.05")
    assert code == 0
    assert len(errors) == 2
    assert all(line.startswith("Warning: ") for line in errors)
    assert [line.partition(": ")[2].partition(" is of class n0")[0] for line in errors] == [
        f"{split}: of the images that a run uses none" for split in ("validation", "test")
    ]


def test_check_says_which_folder_is_which_split(tree, checked):
    assert checked()[1].startswith("folder, training on train, validation on none, test on val.\n")
    shutil.copytree(tree / "val", tree / "test")
    for i, file in enumerate((tree / "test").rglob("*.JPEG")):
        file.write_bytes(jpeg(500 + i))
    code, out, errors = checked("--all")
    assert (code, errors) == (0, [])
    assert out.startswith("folder, training on train, validation on val, test on test.\n")


COPIES = {
    "in two splits": ("train/n01/n01_0.JPEG", "val/n01/copy.JPEG"),
    "in two splits and classes": ("train/n01/n01_0.JPEG", "val/n02/copy.JPEG"),
    "in two classes": ("train/n01/n01_0.JPEG", "train/n03/copy.JPEG"),
}


@pytest.mark.parametrize(("one", "other"), COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_picture_that_is_twice_where_it_must_not_be_is_a_fault_whatever_it_is_encoded_as(
    tree, checked, one, other, form
):
    data = (tree / one).read_bytes()
    if form == "PNG":
        buffer = io.BytesIO()
        Image.open(io.BytesIO(data)).save(buffer, "PNG")
        data = buffer.getvalue()
    (tree / other).write_bytes(data)
    assert checked()[0] == 0  # 200 of each split tell nothing of that
    code, _, (line,) = checked("--all")
    assert code == 2
    assert [
        word
        for word in (str(tree / one), "is the same picture as", str(tree / other))
        if word not in line
    ] == []
    assert "class n01)" in line


def test_copies_within_a_class_and_pictures_of_one_colour_in_other_shapes_are_no_fault(
    tree, checked
):
    (tree / "train/n01/copy.JPEG").write_bytes((tree / "train/n01/n01_0.JPEG").read_bytes())
    for name, shape in (("n01", (40, 30)), ("n02", (30, 40))):
        Image.new("RGB", shape).save(tree / "train" / name / "black.png")
    assert checked("--all")[::2] == (0, [])


def test_a_warning_of_libjpeg_comes_with_the_files_name(tree, checked):
    file = tree / "train" / "n02" / "n02_3.JPEG"
    data = bytearray(file.read_bytes())
    data[900:904] = b"\x55\xff\xd3\x55"  # a marker where none may be
    file.write_bytes(data)
    code, out, errors = checked()
    assert code == 0
    (line,) = errors
    assert line.startswith(f"Warning: {file}: ")
    assert "JPEG" in line
    assert "All sampled images decode" in out


def test_check_and_prepare_on_the_command_line(tree, capsys, xceptlab):
    layers = ["--data.name=folder", f"--data.root={tree}", "--data.num_classes=3", "--data.size=24"]

    def run(*arguments):
        """Exit code, output and errors."""
        return cli.main(["data", *arguments, *layers]), *capsys.readouterr()

    code, out, _ = run("check", "--runtime.workers=0")
    assert code == 0
    assert "24" in out
    assert "All sampled images decode" in out
    (tree / "train" / "n02" / "n02_3.JPEG").write_bytes(b"no image")
    code, _, errors = run("check", "--all", "--runtime.workers=0")
    assert code == 2
    assert "n02_3.JPEG: no readable image" in errors
    code, _, errors = run("prepare")
    assert code == 2
    assert "data.short_side: 0 is not allowed" in errors
    # whose worker ends with it
    corrupt = xceptlab("data", "prepare", *layers, "--data.short_side=32", "--runtime.workers=1")
    assert corrupt.returncode == 2
    assert corrupt.stderr.strip().endswith(
        "n02_3.JPEG: no readable image (cannot identify image file)"
    )
    assert len(corrupt.stderr.strip().splitlines()) == 1
    code, out, _ = run(
        "prepare", "--data.short_side=32", "--data.on_corrupt=skip", "--runtime.workers=0"
    )
    assert code == 0
    assert "Prepared in" in out


def test_a_full_disk_ends_preparation_with_one_line_and_the_same_command_continues(
    tree, monkeypatch, capsys
):
    layers = [
        "-c",
        str(ROOT / "configs/data/folder.yaml"),
        f"--data.root={tree}",
        "--data.num_classes=3",
    ]
    command = ["data", "prepare", *layers, "--data.size=24", "--data.short_side=32"]

    def full(file_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert cli.main(command) == 1
    errors = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("xceptlab: ")
    ]
    assert len(errors) == 1
    assert errors[0].endswith("No space left on device")
    assert cli.main(command) == 0


def test_hub_names_that_are_not_in_the_cache_say_so(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ValueError,
        match=r"hf://nobody/nothing is not to be had here .*--data.download true fetches it",
    ):
        load("hf://nobody/nothing")


def test_a_set_of_the_hub_that_is_not_cifar_is_not_fetched_from_elsewhere(
    hub, monkeypatch, tmp_path, shards
):
    monkeypatch.chdir(tmp_path)
    (shards / "data" / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(ValueError, match=r"data.root: cifar10 is not in .*snapshots/ccc"):
        SETS["cifar10"].load(
            DataConfig(name="cifar10", root="hf://owner/empty", size=32, crop="pad", download=True)
        )
    assert not (tmp_path / "hf:").exists()


def test_a_set_in_the_hubs_cache_is_read_without_a_network(monkeypatch, tmp_path, shards):
    home = tmp_path / "hub" / "datasets--owner--photographs"
    revision = "0123456789abcdef0123456789abcdef01234567"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(revision)
    shutil.copytree(shards, home / "snapshots" / revision)
    monkeypatch.setattr(
        "huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False
    )
    monkeypatch.setattr(
        "huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub")
    )
    assert torch.equal(everything(load("hf://owner/photographs")[0]), everything(load(shards)[0]))


@pytest.fixture
def hub(tmp_path, monkeypatch, shards):
    """A hub with one data set, fetched as the library does it: the files that match, into a folder
    named by the commit.
    """
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    (shards / "data" / "test-00000-of-00001.parquet").write_bytes(b"labels withheld")
    (shards / "README.md").write_text("a card")
    asked = []

    def fetch(name, *, repo_type, revision, allow_patterns, local_files_only):
        asked.append((name, repo_type, revision, local_files_only))
        commit = revision if revision and len(revision) == 40 else "c" * 40
        target = tmp_path / "hub" / "snapshots" / commit
        files = [str(file.relative_to(shards)) for file in shards.rglob("*") if file.is_file()]
        for file in filter_repo_objects(files, allow_patterns=allow_patterns):
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(shards / file, target / file)
        return str(target)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    sources._snapshot.cache_clear()
    yield asked
    sources._snapshot.cache_clear()


def test_of_the_hub_training_and_validation_are_fetched_and_their_commit_is_said_once(
    hub, tmp_path, shards, capsys
):
    for _ in range(2):
        train, test = load("hf://owner/photographs", name="imagenet", download=True)
    assert torch.equal(everything(train), everything(load(shards, name="imagenet")[0]))
    assert len(test.labels) == 9
    assert hub == [("owner/photographs", "dataset", None, False)]
    commit = "c" * 40
    fetched = sorted(file.name for file in (tmp_path / "hub").rglob("*") if file.is_file())
    assert fetched == [
        f"{split}-0000{i}-of-00002.parquet" for split in ("train", "validation") for i in (0, 1)
    ]
    assert capsys.readouterr().err == (
        f"xceptlab: hf://owner/photographs is at commit {commit}; hf://owner/photographs@{commit} keeps to it\n"
    )


def test_of_the_hub_a_revision_may_be_named(hub, capsys):
    load("hf://owner/photographs@v1", name="imagenet")
    assert "hf://owner/photographs@v1 is at commit ccc" in capsys.readouterr().err
    commit = "0123456789" * 4
    train, _ = load(f"hf://owner/photographs@{commit}", name="imagenet")
    assert [revision for _, _, revision, _ in hub] == ["v1", commit]
    assert commit in train.store.name(0)
    assert capsys.readouterr().err == ""


# ---- a million of them ---------------------------------------------------------------------------


WORKER = """
import pickle, sys
import xceptlab.data.module
def held(): return 4096 * int(open("/proc/self/statm").read().split()[1])
begun = held()
split = pickle.load(sys.stdin.buffer)
assert split.source.store.name(len(split) - 1).endswith("n00000999/n00000999_448.JPEG")
print(held() - begun)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_a_worker_that_is_started_afresh_holds_imagenets_paths_in_less_than_200_mb():
    """1.28 million photographs by simulated paths, sent as a spawned worker receives them."""
    n, classes = 1_281_167, tuple(f"n{i:08d}" for i in range(1000))
    files = pyarrow.concat_arrays(
        [pyarrow.array([f"n{k:08d}_{i}.JPEG" for i in range(1282)]) for k in range(1000)]
    )[:n]
    store = Tree(Path("/nowhere"), classes, np.repeat(np.arange(1000), 1282)[:n], files)
    split = pickle.dumps(
        Split(Photographs(store, DataConfig()), np.arange(n), DataConfig(), seed=0)
    )
    worker = subprocess.run(
        [sys.executable, "-c", WORKER], input=split, capture_output=True, check=True
    )
    assert 20e6 < int(worker.stdout) < 200e6  # the labels and the names alone are more than 20


def test_the_order_of_an_epoch_of_imagenets_size_is_computed():
    permutation = order.permutation(0, 0, 1_281_167)
    assert permutation.nbytes == 8 * 1_281_167
    assert np.array_equal(np.sort(permutation), np.arange(1_281_167))


# ---- what a review found -------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(60, 400, 20))
def test_a_png_with_a_wrong_byte_is_an_error_or_an_image_never_a_crash(place):
    data = bytearray(jpeg(3, form="PNG"))
    data[place] ^= 0xFF
    with contextlib.suppress(ValueError):
        assert decode(bytes(data)).shape == (3, 63, 77)


def test_a_disk_that_fails_is_no_corrupt_photograph(tree):
    """With on_corrupt skip it would be replaced in one arm and not in another."""
    train, _ = load(tree, on_corrupt="skip")
    (tree / "train" / "n01" / "n01_3.JPEG").unlink()
    with pytest.raises(FileNotFoundError):
        train.read(3, None)


def test_many_tar_files_are_not_kept_open(tree, monkeypatch):
    import resource

    monkeypatch.setattr("xceptlab.data.prepare.MEMBERS", 1)
    list(prepare(config(tree, short_side=32), 0))
    train, _ = load(tree, short_side=32)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 10, before[1]))
    try:
        assert len(everything(train)) == 24
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_tar_file_that_is_gone_is_written_again(tree):
    list(prepare(config(tree, short_side=32), 0))
    (tar,) = (tree / "prepared").glob("*/train-00000.tar")
    before = tar.read_bytes()
    tar.unlink()
    steps = prepare(config(tree, short_side=32), 0)
    assert next(steps) == (9, 33)
    steps.close()
    # checksums that may be others' are not left lying
    with pytest.raises(ValueError, match="prepares them"):
        load(tree, short_side=32)
    assert not tar.with_suffix(".arrow").exists()
    list(prepare(config(tree, short_side=32), 0))
    assert tar.read_bytes() == before
    everything(load(tree, short_side=32)[0])


def test_missing_shards_and_neighbouring_sets_are_refused(shards):
    (shards / "data" / "train-00001-of-00002.parquet").rename(shards / "kept")
    with pytest.raises(ValueError, match=r"1 of the 2 files train-\*.parquet are there"):
        load(shards)
    (shards / "kept").rename(shards / "data" / "train-00001-of-00002.parquet")
    shutil.copytree(shards / "data", shards / "other")
    with pytest.raises(ValueError, match="holds several data sets"):
        load(shards)
    for file in [*(shards / "other").glob("train-*"), *(shards / "data").glob("validation-*")]:
        file.unlink()
    with pytest.raises(ValueError, match="holds several data sets"):
        load(shards)


HASH = "29aec9150af50f9f"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["00000-of-00001"], ""),
        (["00000-of-00002", "00001-of-00002"], ""),
        (["00001-of-00002", "00002-of-00002"], ""),
        ([f"00000-of-00002-{HASH}", f"00001-of-00002-{HASH[::-1]}"], ""),
        (["a"], ""),
        (["2024-01", "2024-03"], ""),
        ([f"00000-of-00007-{HASH}"], r"1 of the 7 files train-\*.parquet are there; number 1 is m"),
        (["00001-of-00002"], r"1 of the 2 files train-\*.parquet are there; number 0 is missing"),
        (["00000-of-00002", "00002-of-00002"], r"2 of the 2 files .* there; number 1 is missing"),
        (["00000-of-00002", "00001-of-00002", "00002-of-00002"], r"3 of the 2 files .* are there$"),
        (["00000-of-00002", "00000-of-00003"], r"are of several sets, of 2 and of 3 files"),
        (["00000-of-00002", "00001-of-00002 (1)"], r"train-00001-of-00002 \(1\).parquet has no numb"),
        (["00000-of-00001", "new"], r"train-new.parquet has no number, as the other files train-\*"),
        (
            ["00000-of-00002", f"00000-of-00002-{HASH}", "00001-of-00002"],
            rf"number 0 .* there twice: train-00000-of-00002-{HASH}.parquet and train-00000-of-00002.p",
        ),
    ],
)  # fmt: skip
def test_of_numbered_files_each_must_be_there_once(tmp_path, names, said):
    for name in names:
        (tmp_path / f"train-{name}.parquet").touch()
    if said:
        with pytest.raises(Refused, match=f"^{re.escape(str(tmp_path))}: .*{said}"):
            find_shards(tmp_path, "train")
    else:
        assert len(find_shards(tmp_path, "train")) == len(names)


def test_files_that_replace_others_while_a_process_runs_are_read_anew(shards):
    file = shards / "data" / "train-00000-of-00002.parquet"
    before = everything(load(shards)[0])
    table = pyarrow.parquet.read_table(file)
    backwards = table.take(list(reversed(range(len(table)))))
    pyarrow.parquet.write_table(backwards, file, row_group_size=5)
    train, _ = load(shards)
    half = len(table)
    assert train.labels[:half].tolist() == backwards["label"].to_pylist()
    assert torch.equal(everything(train), torch.cat((before[:half].flip(0), before[half:])))


def test_row_groups_are_kept_by_their_bytes(shards, monkeypatch):
    from xceptlab.data import shards as module

    train, _ = load(shards)
    monkeypatch.setattr(module, "_cache", {})
    wanted = everything(train)
    assert len(module._cache) == 6  # 24 photographs by fives, in two files
    one = next(iter(module._cache.values())).nbytes
    monkeypatch.setattr(module, "_CACHE_BYTES", 2.2 * one)
    assert torch.equal(everything(train), wanted)
    assert len(module._cache) == 2
    file, _, group = list(module._cache)[-1]
    assert (file.name, group) == ("train-00001-of-00002.parquet", 2)
    monkeypatch.setattr(module, "_CACHE_BYTES", 0)
    assert torch.equal(everything(train), wanted)
    assert len(module._cache) == 1


def test_a_run_can_start_where_a_sampled_photograph_is_corrupt(tree):
    (tree / "train" / "n01" / "n01_0.JPEG").write_bytes(b"x")
    assert load(tree, on_corrupt="skip")[0].fingerprint() != load(tree)[1].fingerprint()


def test_prepared_photographs_too_small_for_the_evaluation_are_refused():
    with pytest.raises(
        ValueError,
        match=r"data.short_side: 256 is not allowed; it must be 0 \(the originals\) or at least 342",
    ):
        DataConfig(short_side=256)
    assert DataConfig(short_side=256, size=224).short_side == 256


# ---- files as they are found ---------------------------------------------------------------------

ODD = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize("what", ["photograph", "class", "root"])
def test_names_that_are_not_utf8_are_read_named_and_prepared(tree, tmp_path, what, capsys):
    plain = load(tree)[0]
    wanted = everything(plain)
    if what == "photograph":
        (tree / "train" / "n01" / "n01_0.JPEG").rename(tree / "train" / "n01" / f"a{ODD}.jpg")
    elif what == "class":
        for split in ("train", "val"):
            (tree / split / "n01").rename(tree / split / f"a{ODD}")
    else:
        tree.rename(tmp_path / ODD)
        tree = tmp_path / ODD
    train, _ = load(tree)
    assert torch.equal(everything(train), wanted)
    assert r"caf\xe9" in train.store.name(0)
    list(prepare(config(tree, short_side=32), 0))
    assert next(prepare(config(tree, short_side=32), 0)) == (33, 33)
    assert len(everything(load(tree, short_side=32)[0])) == 24
    Path(train.store._path(0)).write_bytes(b"no image")
    layers = ["--data.name=folder", f"--data.root={tree}", "--data.num_classes=3", "--data.size=24"]
    assert cli.main(["data", "check", "--all", *layers]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert r"caf\xe9" in line
    assert line.endswith(": no readable image (cannot identify image file)")


def test_members_of_tar_files_whose_names_are_not_utf8_are_read(tars):
    wanted = everything(load(tars)[0])
    file = tars / "ILSVRC2012_img_train.tar"
    classes = encoded()["train"]
    classes["n01"] = [(name.replace("n01_", ODD), data) for name, data in classes["n01"]]
    file.write_bytes(packed([(f"{name}.tar", packed(files)) for name, files in classes.items()]))
    train, _ = load(tars)
    assert torch.equal(everything(train), wanted)
    assert train.store.name(0) == rf"{file}: caf\xe90.JPEG"


def flattened(tree):
    for file in list((tree / "val").glob("*/*")):
        file.rename(tree / "val" / file.name)
    for folder in (tree / "val").iterdir():
        if folder.is_dir():
            folder.rmdir()


def test_a_flat_validation_folder_has_its_labels_from_the_development_kit(tree, tars):
    _, wanted = load(tree)
    pixels, fingerprint, originals = (
        everything(wanted),
        wanted.fingerprint(),
        names_and_sizes(wanted.store),
    )
    flattened(tree)
    shutil.copy(tars / "ILSVRC2012_devkit_t12.tar.gz", tree)
    _, test = load(tree)
    assert test.labels.tolist() == wanted.labels.tolist()
    assert torch.equal(everything(test), pixels)
    assert (test.fingerprint(), names_and_sizes(test.store)) == (fingerprint, originals)
    assert test.store.name(0) == str(tree / "val" / "ILSVRC2012_val_00000000.JPEG")
    assert test.store.left_alone_in_short() == ""


def test_a_flat_validation_folder_says_what_it_needs(tree, tars):
    flattened(tree)
    with pytest.raises(
        ValueError,
        match=rf"in no class's folder; .* ILSVRC2012_devkit_t12\.tar\.gz, which .*, in {tree}$",
    ):
        load(tree)
    shutil.copy(tars / "ILSVRC2012_devkit_t12.tar.gz", tree)
    (tree / "val" / "ILSVRC2012_val_00000004.JPEG").rename(tree / "kept")
    with pytest.raises(ValueError, match=r"val: holds 8 photographs; there are labels of 9"):
        load(tree)
    (tree / "kept").rename(tree / "val" / "ILSVRC2012_val_00000004.JPEG")
    (tree / "train" / "n02").rename(tree / "train" / "n04")
    with pytest.raises(
        ValueError,
        match=r"train: its folders are not the 3 classes of ILSVRC2012_devkit_t12\.tar\.gz",
    ):
        load(tree)


def names_and_sizes(store):
    return [f"{name} {size}" for name, size in store.files_and_sizes()]


def test_what_is_left_alone_in_a_tree_is_counted_by_its_reason(tree, capsys):
    odd = tree / "train" / "n02"
    for name in ("scan.tif", "scan.TIFF", "grey.pgm", "notes.txt"):
        (odd / name).write_bytes(b"x")
    # what is hidden is not spoken of
    for folder in ("sub", "sub/deeper", "sub/.thumbnails", ".thumbnails"):
        (odd / folder).mkdir()
        shutil.copy(odd / "n02_0.JPEG", odd / folder)
    (odd / "empty").mkdir()
    shutil.copy(odd / "n02_0.JPEG", tree / "val" / "loose.JPEG")
    train, test = load(tree)
    assert (len(train.labels), len(test.labels)) == (24, 9)
    assert train.store.left_alone_in_short() == (
        f"{tree / 'train'}: files left alone: 6 (2 photographs in folders below a class's; 4 with other suffixes than "
        ".jpeg, .jpg, .png, .webp, .bmp, .ppm); `xceptlab data check` names them"
    )
    assert test.store.left_alone_in_short().startswith(
        f"{tree / 'val'}: files left alone: 1 (1 photographs in no class's folder); "
    )
    (note,) = train.store.left_alone()
    assert note.startswith(
        f"{odd}: empty/ (0 photographs), grey.pgm, notes.txt and 3 more: left alone, not .j"
    )
    (note,) = test.store.left_alone()
    assert note == f"{tree / 'val'}: loose.JPEG: left alone, in no class's folder"
    list(prepare(config(tree, short_side=32), 0))
    assert capsys.readouterr().err.count("files left alone: ") == 2


def test_names_that_are_utf8_keep_a_prepared_folder_valid(tree, tmp_path):
    """What was prepared before names could be any bytes is known again: the digest of the originals
    is of the same text.
    """
    (tree / "train" / "n01" / "n01_0.JPEG").rename(tree / "train" / "n01" / "ä_0.JPEG")
    store = load(tree)[0].store
    assert (
        names_and_sizes(store)[7]
        == f"ä_0.JPEG {(tree / 'train' / 'n01' / 'ä_0.JPEG').stat().st_size}"
    )


def turned(form, orientation=6, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg(3))).save(buffer, form, exif=exif, **options)
    return buffer.getvalue()


LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "JPEG": {}}


@pytest.mark.parametrize("form", LOSSLESS)
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_without_exif_orientation_an_image_is_as_pillow_opens_it(form, orientation):
    data = turned(form, orientation, **LOSSLESS[form])
    plain = torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(decode(data, exif_orientation=False), plain)
    assert torch.equal(decode(data), plain) == (orientation == 1)


def test_photographs_are_read_and_prepared_as_they_are_stored_where_that_is_asked_for(tree):
    (tree / "train" / "n01" / "n01_0.JPEG").write_bytes(turned("JPEG"))
    upright, stored = load(tree)[0], load(tree, exif_orientation=False)[0]
    assert not torch.equal(upright.read(0, None), stored.read(0, None))
    assert torch.equal(upright.read(1, None), stored.read(1, None))
    for flag in (True, False):  # in folders of their own: one is never taken for the other
        list(prepare(config(tree, short_side=80, quality=0, exif_orientation=flag), 0))
    assert torch.equal(load(tree, short_side=80, quality=0)[0].read(0, None), upright.read(0, None))
    assert torch.equal(
        load(tree, short_side=80, quality=0, exif_orientation=False)[0].read(0, None),
        stored.read(0, None),
    )


@pytest.mark.parametrize("form", LOSSLESS)
@pytest.mark.parametrize("place", range(4, 26, 3))
@pytest.mark.parametrize("wrong", [0x00, 0xFF])
def test_damaged_exif_data_of_sound_pixels_turn_nothing_or_as_they_say(form, place, wrong):
    """In a JPEG, a PNG (whose chunk's checksum fails then) and a WebP: read, upright or as it is
    stored.
    """
    data = bytearray(turned(form, **LOSSLESS[form]))
    start = data.index(b"MM\x00*") if b"MM\x00*" in data else data.index(b"II*\x00")
    data[start + place - 4] = wrong
    stored = decode(turned(form, 1, **LOSSLESS[form]))
    found = decode(bytes(data))
    assert any(
        torch.equal(found, one)
        for one in (
            stored,
            stored.rot90(-1, (1, 2)),
            stored.rot90(1, (1, 2)),
            stored.rot90(2, (1, 2)),
        )
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"Exif\x00\x00",
        b"MM\x00*",
        b"II*\x00\xff\xff\xff\xff",
        b"\x00" * 50,
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff",
    ],
)
@pytest.mark.parametrize("form", LOSSLESS)
def test_exif_data_of_other_content_turn_nothing(form, content):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg(3))).save(buffer, form, exif=content, **LOSSLESS[form])
    assert torch.equal(decode(buffer.getvalue()), decode(turned(form, 1, **LOSSLESS[form])))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_one_limit_of_pixels_holds_for_every_format(form):
    data = jpeg(3, form=form)  # 77 x 63
    assert decode(data, max_pixels=4851).shape == (3, 63, 77)
    for limit in (4850, 2426, 1):
        with pytest.raises(
            ValueError, match=rf"Image size \(4851 pixels\) exceeds data\.max_pixels, {limit}$"
        ):
            decode(data, max_pixels=limit)


def claiming(width, height):
    """A JPEG whose header claims other sides, with wrong bytes before it that libjpeg passes over."""
    data = bytearray(jpeg(3))
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    data[place:place] = b"\x00\x17\xff\xff"
    return bytes(data)


@pytest.mark.parametrize(
    ("width", "height"), [(65500, 65500), (65535, 65535), (30000, 30000), (13378, 13378)]
)
def test_a_jpeg_that_claims_to_be_huge_is_refused_before_memory_is_taken(width, height, tree):
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    used = (
        4096 * int(Path("/proc/self/statm").read_text().split()[0])
        if sys.platform == "linux"
        else 0
    )
    resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20, before[1]))
    try:
        with pytest.raises(
            ValueError,
            match=rf"Image size \({width * height} pixels\) exceeds data\.max_pixels, 178956970",
        ):
            decode(claiming(width, height))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    (tree / "train" / "n01" / "n01_1.JPEG").write_bytes(claiming(width, height))
    assert len(everything(load(tree, max_pixels=2**33, on_corrupt="skip")[1])) == 9
    with pytest.raises(sources.Unreadable, match=r"n01_1\.JPEG: no readable image \(Image size"):
        load(tree)[0].read(1, None)


def test_a_jpeg_with_wrong_bytes_before_its_header_is_still_read():
    assert torch.equal(decode(claiming(77, 63)), decode(jpeg(3)))


def test_the_limit_leaves_pillows_own_alone(recwarn):
    before = Image.MAX_IMAGE_PIXELS
    decode(jpeg(3, form="PNG"), max_pixels=5000)  # of which Pillow would warn from the half on
    assert before == Image.MAX_IMAGE_PIXELS
    assert not recwarn.list


@pytest.mark.parametrize("quality", [90, 0])
def test_a_photograph_longer_than_a_jpeg_can_be_is_no_traceback(tree, quality):
    buffer = io.BytesIO()
    Image.new("RGB", (66000, 4)).save(buffer, "PNG")
    (tree / "train" / "n01" / "n01_0.JPEG").write_bytes(buffer.getvalue())
    if quality:
        with pytest.raises(
            ValueError,
            match=r"n01_0\.JPEG: no readable image \(its longer side has 66000 pixels; a JPEG has at most 65500",
        ):
            list(prepare(config(tree, short_side=32, quality=quality), 0))
    else:
        assert list(prepare(config(tree, short_side=32, quality=quality), 0))[-1] == (33, 33)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_image_is_an_image_or_one_error(form, seed):
    data = damaged(jpeg(3, form=form), seed)
    with contextlib.suppress(ValueError):
        assert decode(data, max_pixels=100_000).shape[0] == 3


@pytest.mark.parametrize(
    "name", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"]
)
@pytest.mark.parametrize("seed", range(10))
def test_a_damaged_tar_file_is_read_or_refused_in_one_line(tars, name, seed):
    file = tars / name
    file.write_bytes(damaged(file.read_bytes(), seed))
    kinds = []
    try:
        for source in load(tars):
            for i in range(len(source.labels)):
                with contextlib.suppress(sources.Unreadable):
                    source.read(i, None)
    except ValueError as error:
        kinds.append((type(error), "\n" in str(error)))
    assert kinds in ([], [(Refused, False)], [(sources.Unsound, False)])


@pytest.mark.parametrize("seed", range(8))
def test_a_development_kit_is_not_parsed_before_its_checksum_is_right(tars, seed):
    """Damaged .mat files make SciPy crash; what is damaged here is what the kit holds, under the
    checksum of the sound one.
    """
    kit = tars / "ILSVRC2012_devkit_t12.tar.gz"
    sound = kit.read_bytes()
    whole = bytearray(gzip.decompress(sound))
    place = whole.index(b"MATLAB 5.0") + 128
    whole[place : place + 200] = damaged(bytes(whole[place : place + 200]), seed).ljust(200, b"\0")[
        :200
    ]
    kit.write_bytes(gzip.compress(bytes(whole))[:-8] + sound[-8:])
    with pytest.raises(
        ValueError, match=r"not the development kit of ILSVRC 2012 \(CRC check failed"
    ):
        load(tars)


def damaged(data, seed):
    """Bytes changed, cut out or put in, most of all in the first of them, where headers are."""
    draw, data = random.Random(seed), bytearray(data)
    for _ in range(draw.choice([1, 2, 5, 30])):
        place = draw.randrange(min(len(data), draw.choice([100, 600, len(data)])))
        match draw.choice(["flip", "set", "cut", "insert"]):
            case "flip":
                data[place] ^= 1 << draw.randrange(8)
            case "set":
                data[place] = draw.choice([0x00, 0x7F, 0x80, 0xFF])
            case "cut":
                del data[place : place + draw.randrange(1, 9)]
            case "insert":
                data[place:place] = draw.randbytes(draw.randrange(1, 9))
    return bytes(data)


@pytest.mark.parametrize("size", [-512, -1, 2**62, 2**70])
@pytest.mark.parametrize(
    "kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.GNUTYPE_SPARSE]
)
def test_a_tar_file_that_claims_impossible_sizes_is_refused_at_once(tars, size, kind):
    member = tarfile.TarInfo("n01.tar")
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (b"\x80" if size >= 0 else b"\xff") + (size % 2**88).to_bytes(11)
    header[156:157] = kind
    header[148:156] = (
        b"%06o\0 "
        % tarfile.calc_chksums(bytes(header[:148]) + b"        " + bytes(header[156:]))[0]
    )
    (tars / "ILSVRC2012_img_train.tar").write_bytes(bytes(header) + bytes(4096))
    with pytest.raises(
        ValueError, match=r"ILSVRC2012_img_train\.tar: .*(not a|holds no photograph|cut short)"
    ):
        load(tars)


@pytest.mark.parametrize("name", ["train.arrow", "originals.json", "train-00000.arrow"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"ARROW1 but cut", b"[1", b"{}"])
def test_damaged_tables_of_prepared_photographs_are_named(tree, name, content):
    list(prepare(config(tree, short_side=32), 0))
    (folder,) = (tree / "prepared").iterdir()
    (folder / name).write_bytes(content)
    if name == "train-00000.arrow":
        (folder / "train.arrow").unlink()
    with pytest.raises(ValueError, match=rf"{name}: damaged|holds photographs of other originals"):
        load(tree, short_side=32) if name == "train.arrow" else list(
            prepare(config(tree, short_side=32), 0)
        )


# ---- file systems without locks ------------------------------------------------------------------

NO_LOCKS = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS]


@pytest.fixture(params=[0, *NO_LOCKS], ids=lambda number: errno.errorcode.get(number, "locks"))
def flock(request, monkeypatch):
    """With locks, and as file systems without them answer."""

    def refuse(*_):
        raise OSError(request.param, os.strerror(request.param))

    if request.param:
        monkeypatch.setattr("fcntl.flock", refuse)
        monkeypatch.setattr("xceptlab.runs.leases.HEARTBEAT", 0.2)


def test_tar_files_and_prepared_photographs_do_without_locks(flock, tars):
    assert len(load(tars)[0].labels) == 24
    list(prepare(config(tars, short_side=32), 0))
    assert len(everything(load(tars, short_side=32)[0])) == 24
    assert not list(tars.rglob("lease.*"))


def test_of_several_that_ask_one_is_alone_in_a_folder_with_locks_and_without(flock, tmp_path):
    inside, most = [], []

    def enter(number):
        with sources.locked(tmp_path / "folder"):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.05)
            inside.remove(number)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(enter, range(4)))
    assert most == [1, 1, 1, 1]


def test_who_does_not_wait_is_told_that_another_is_there(flock, tree):
    busy = pytest.raises(ValueError, match="another process is preparing photographs there")
    with sources.locked(prepared_folder(config(tree, short_side=32))), busy:
        list(prepare(config(tree, short_side=32), 0))
    list(prepare(config(tree, short_side=32), 0))


def test_another_error_of_a_lock_is_not_taken_for_a_file_system_without(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(OSError, match="Input/output error"), sources.locked(tmp_path):
        pass
