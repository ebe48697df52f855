"""Decoded images in the user's cache: decoded once, never those of other files, never damaged,
never in the way.
"""

import dataclasses
import io
import json
import struct
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from xceptlab.config.schema import DataConfig
from xceptlab.data import cifar, photographs
from xceptlab.data.sources import fingerprint

IMAGES = 20


def bmp(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "bmp")
    return buffer.getvalue()


def write_parquet(root, seed):
    """CIFAR-like files, whose sizes do not depend on the seed."""
    generator = np.random.default_rng(seed)
    for split in ("train", "test"):
        cells = [
            bmp(pixels)
            for pixels in generator.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
        ]
        table = pyarrow.table({"img": cells, "label": [i % 10 for i in range(IMAGES)]})
        options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        pyarrow.parquet.write_table(table, root / f"{split}-00000-of-00001.parquet", **options)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """CIFAR-like parquet files, and a cache folder that is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "files").mkdir()
    write_parquet(tmp_path / "files", seed=0)
    return DataConfig(name="cifar10", root=str(tmp_path / "files"), size=32, crop="pad")


@pytest.fixture
def decoded(monkeypatch):
    """One entry for each image that is decoded."""
    calls, decode = [], photographs.decode
    monkeypatch.setattr(photographs, "decode", lambda data: calls.append(len(data)) or decode(data))
    return calls


def kept(tmp_path):
    (file,) = (tmp_path / "cache" / "xceptlab").iterdir()
    return file


def test_the_second_run_finds_the_same_images_and_decodes_none(config, decoded, capsys):
    first = cifar.load(config)
    assert len(decoded) == 2 * IMAGES
    second = cifar.load(config)
    assert len(decoded) == 2 * IMAGES
    assert fingerprint(second) == fingerprint(first)
    for mine, theirs in zip(first, second, strict=True):
        assert np.array_equal(mine.images, theirs.images)
        assert np.array_equal(mine.labels, theirs.labels)
        assert (mine.images.dtype, mine.labels.dtype) == (theirs.images.dtype, theirs.labels.dtype)
    assert capsys.readouterr().err == ""


def test_mapped_images_become_tensors_without_a_warning_and_no_change_of_one_reaches_the_file(
    config, tmp_path
):
    cifar.load(config)
    before = kept(tmp_path).read_bytes()
    train, _ = cifar.load(config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.from_numpy(train.images).zero_()
    assert kept(tmp_path).read_bytes() == before


def test_other_files_of_equal_names_and_sizes_are_decoded(config, decoded):
    names_and_sizes, first = cifar.files(config), cifar.load(config)
    write_parquet(cifar.folder(config), seed=1)
    assert cifar.files(config) == names_and_sizes
    assert fingerprint(cifar.load(config)) != fingerprint(first)
    assert len(decoded) == 4 * IMAGES


@pytest.mark.parametrize("what", ["set", "Pillow", "results"])
def test_what_another_set_or_decoder_makes_of_the_files_is_another_origin(
    config, monkeypatch, what
):
    before = cifar._digest_of_what_is_decoded(config)
    if what == "set":
        config = dataclasses.replace(config, name="cifar100")
    elif what == "Pillow":
        version = cifar.importlib.metadata.version
        monkeypatch.setattr(
            cifar.importlib.metadata,
            "version",
            lambda name: version(name) + ".post1" * (name == "pillow"),
        )
    else:
        monkeypatch.setattr(cifar, "SCIENCE_VERSION", cifar.SCIENCE_VERSION + 1)
    assert cifar._digest_of_what_is_decoded(config) != before


def with_header(data, **changes):
    """A safetensors file with entries of its header changed."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    for key, change in changes.items():
        header[key] = header[key] | change if change else {}
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data[8 + size :]


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


DAMAGES = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[:-1],
    "a byte of the labels": lambda data: flipped(data, len(data) - 8),
    "a byte of the images": lambda data: flipped(data, len(data) // 2),
    "of another origin": lambda data: with_header(data, __metadata__={"origin": "x"}),
    "of another fingerprint": lambda data: with_header(data, __metadata__={"fingerprint": "x"}),
    "without metadata": lambda data: with_header(data, __metadata__={}),
    "of another type": lambda data: with_header(data, **{"train.images": {"dtype": "I8"}}),
    "of another shape": lambda data: with_header(
        data, **{"train.images": {"shape": [IMAGES * 32 * 32, 3]}}
    ),
    "no file of tensors": lambda data: b"some text",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_never_used_but_said_and_written_anew(
    config, tmp_path, decoded, capsys, damage
):
    first = fingerprint(cifar.load(config))
    file = kept(tmp_path)
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    again = cifar.load(config)
    assert len(decoded) == 4 * IMAGES
    assert again[0].images.shape == (IMAGES, 32, 32, 3)
    assert fingerprint(again) == first
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{file}: a damaged file" in line
    assert "its images are decoded anew" in line
    assert fingerprint(cifar.load(config)) == first
    assert len(decoded) == 4 * IMAGES


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell what is mapped")
def test_the_images_are_mapped_so_that_runs_share_them(config, tmp_path):
    cifar.load(config)
    images = cifar.load(config)
    assert str(kept(tmp_path)) in Path("/proc/self/maps").read_text()
    assert len(images) == 2


def test_removing_the_cache_while_it_is_mapped_harms_nobody(config, tmp_path):
    cifar.load(config)
    train, _ = cifar.load(config)
    images = train.images.copy()
    kept(tmp_path).unlink()
    assert np.array_equal(train.images, images)


@pytest.mark.parametrize("obstacle", ["a file where the folder should be", "a full disk"])
def test_a_cache_that_cannot_be_written_is_one_line_and_no_error(
    config, tmp_path, monkeypatch, decoded, capsys, obstacle
):
    if obstacle == "a full disk":

        def full(path, data):
            raise OSError(28, "No space left on device", str(path))

        monkeypatch.setattr("xceptlab.data.cache.write_atomically", full)
    else:
        (tmp_path / "cache").write_text("")
    for run in (1, 2):
        train, _ = cifar.load(config)
        assert len(train.labels) == IMAGES
        assert len(decoded) == run * 2 * IMAGES
        (line,) = capsys.readouterr().err.splitlines()
        assert "decoded images cannot be kept" in line


def test_without_a_home_the_images_are_decoded(config, monkeypatch, decoded):
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("xceptlab.data.cache.Path.home", homeless)
    assert len(cifar.load(config)[0].labels) == IMAGES
    assert len(decoded) == 2 * IMAGES


def test_of_two_that_come_at_once_one_decodes_and_the_other_finds_its_file(
    config, monkeypatch, decoded, capsys
):
    counted = photographs.decode
    monkeypatch.setattr(photographs, "decode", lambda data: time.sleep(0.005) or counted(data))
    # each locks the folder by a descriptor of its own, as two processes do
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: cifar.load(config), range(2))
    assert len(decoded) == 2 * IMAGES
    assert fingerprint(first) == fingerprint(second)
    assert capsys.readouterr().err == ""


def test_files_that_are_not_cifar_leave_nothing_behind(config, tmp_path):
    with pytest.raises(ValueError, match="cifar100 has 100"):
        cifar.load(dataclasses.replace(config, name="cifar100"))
    assert list((tmp_path / "cache" / "xceptlab").iterdir()) == []
