"""What the data are: a run of other data is another run, and is never answered with this one's
score.
"""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import yaml
from PIL import Image

from conftest import ROOT
from made import leave, photographs
from xceptlab import cli
from xceptlab.config.loading import load_run
from xceptlab.config.schema import DataConfig, RunConfig
from xceptlab.data import identity, resolved, splits
from xceptlab.data.prepare import prepare
from xceptlab.data.shards import find_shards
from xceptlab.runs.directory import RunDirectory, begun_on_other_files
from xceptlab.study.plan import expand
from xceptlab.training.task import Task

TRAIN = [
    *(
        "-c",
        str(ROOT / "configs/model/xception_tiny.yaml"),
        "-c",
        str(ROOT / "configs/train/digits.yaml"),
    ),
    *(
        "--data.name=folder",
        "--data.size=16",
        "--model.width=0.0625",
        "--model.middle_blocks=0",
        "--train.epochs=1",
    ),
    *("--train.batch_size=12", "--runtime.wandb=disabled", "--runtime.accelerator=cpu"),
]
"""A run of one or two steps."""


@pytest.fixture
def tree(tmp_path):
    return photographs(tmp_path / "tree", "abc", train=4, val=2)


@pytest.fixture
def command(tmp_path, capsys):
    """``command("train", ...)``: exit code, last line of the output and the lines on standard error
    that are ours.
    """

    def run(name, *arguments, layers=TRAIN):
        code = cli.main(
            [name, *map(str, arguments), *layers, f"--runtime.outputs={tmp_path / 'outputs'}"]
        )
        said = capsys.readouterr()
        ours = [
            line for line in said.err.splitlines() if line.startswith(("xceptlab: ", "Warning: "))
        ]
        return code, (said.out.splitlines() or [""])[-1], ours

    return run


def runs(tmp_path):
    return sorted((tmp_path / "outputs" / "runs").iterdir())


def own(root, **changes):
    return RunConfig(
        data=DataConfig(**{"name": "folder", "root": str(root), "size": 24, **changes})
    )


def picture(file, shade=0):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 50), (shade, 0, 0)).save(file)


# ---- what is the same data set and what is not ---------------------------------------------------


CHANGES = {
    "a mended photograph": lambda tree: picture(tree / "train/a/a0.jpg"),
    "a mended test photograph": lambda tree: picture(tree / "val/a/a0.jpg"),
    "one more": lambda tree: picture(tree / "train/a/a9.jpg"),
    "one less": lambda tree: (tree / "train/c/c3.jpg").unlink(),
    "one renamed": lambda tree: (tree / "train/a/a0.jpg").rename(tree / "train/a/z.jpg"),
    "one in another class": lambda tree: (tree / "train/a/a0.jpg").rename(tree / "train/b/a0.jpg"),
    "one in another split": lambda tree: (tree / "train/a/a3.jpg").rename(tree / "val/a/a3.jpg"),
    "a class renamed": lambda tree: [
        (tree / split / "a").rename(tree / split / "d") for split in ("train", "val")
    ],
    "a class more": lambda tree: [
        picture(tree / f"{split}/d/d{i}.jpg") for split in ("train", "val") for i in (0, 1)
    ],
    "a test split": lambda tree: shutil.copytree(tree / "val", tree / "test"),
    "another split to test on": lambda tree: (tree / "val").rename(tree / "test"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_files_are_another_run(tree, change):
    before = resolved(own(tree))
    change(tree)
    assert resolved(own(tree)).run_id != before.run_id
    with pytest.raises(
        ValueError,
        match=rf"data\.content: {before.data.content.replace('+', '.')} is not what is in .*put back",
    ):
        resolved(before)


def hidden(tree):
    for split in ("train", "val"):
        for file in (
            ".ipynb_checkpoints/a0.jpg",
            "._a.jpg",
            "a/._a0.jpg",
            "a/.a.jpg",
            "b/.ipynb_checkpoints/b0.jpg",
        ):
            picture(tree / split / file)
        (tree / split / ".DS_Store").write_bytes(b"some")
        (tree / split / "a/.DS_Store").write_bytes(b"some")


@pytest.mark.parametrize("name", ["folder", "imagenet"])
def test_hidden_files_and_folders_are_neither_read_nor_spoken_of(tree, name, imagenet, capsys):
    config = own(tree, name=name, **({"num_classes": 3} if name == "folder" else {})).data

    def seen():
        stores = [source.store for source, _ in splits(config).values()]
        names = [[store.name(i) for i in range(len(store.labels))] for store in stores]
        return (
            names,
            [list(store.left_alone()) for store in stores],
            [store.left_alone_in_short() for store in stores],
        )

    before, files = seen(), identity.files(config)
    assert before[1:] == ([[]] * 3, [""] * 3)
    hidden(tree)
    assert seen() == before
    assert identity.files(config) == files
    assert identity.class_names(config) == ("a", "b", "c")


def test_parquet_files_in_a_hidden_folder_are_no_data_set(tree):
    for folder in ("mine", ".cache"):
        shard(tree / folder, "train", sorted(tree.rglob("train/*/*.jpg")))
        (tree / folder / "data/train-00000-of-00001.parquet").rename(
            tree / folder / "train-00000-of-00001.parquet"
        )
    assert [file.parent.name for file in find_shards(tree, "train")] == ["mine"]


SAME = {
    "moved": lambda tree: shutil.move(tree, tree.parent / "elsewhere"),
    "copied": lambda tree: shutil.copytree(
        tree, tree.parent / "copy", copy_function=shutil.copyfile
    ),
    "linked": lambda tree: (tree.parent / "link").symlink_to(tree) or tree.parent / "link",
    "touched": lambda tree: [os.utime(file, (1, 1)) for file in tree.rglob("*.jpg")] and tree,
    "with what macOS and Jupyter leave": lambda tree: hidden(tree) or tree,
    "with a note beside a photograph": lambda tree: (
        (tree / "train/a/README.txt").write_text("of a") and tree
    ),
    "with prepared photographs": lambda tree: (
        list(prepare(own(tree, short_side=32).data, 0)) and tree
    ),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_the_same_files_elsewhere_are_the_same_run(tree, change):
    before = resolved(own(tree))
    assert (before.data.num_classes, before.data.content[:12]) == (3, "train+val-3-")
    assert resolved(own(Path(change(tree)), num_classes=3)).run_id == before.run_id


def shard(root, split, images, names=None):
    cells = [{"bytes": file.read_bytes(), "path": file.name} for file in images]
    table = pyarrow.table(
        {"image": cells, "label": ["abc".index(file.parent.name) for file in images]}
    )
    if names:
        features = {"label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
    (root / "data").mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, root / "data" / f"{split}-00000-of-00001.parquet")


@pytest.mark.parametrize("names", [None, ("ant", "bee", "cat")])
def test_parquet_files_of_ones_own_are_known_by_their_names_and_sizes(tree, tmp_path, names):
    images = {split: sorted(tree.rglob(f"{split}/*/*.jpg")) for split in ("train", "val")}
    shard(tmp_path / "one", "train", images["train"], names)
    shard(tmp_path / "one", "test", images["val"])
    before = resolved(own(tmp_path / "one"))
    assert before.data.content.startswith("train+test-3-")
    assert identity.class_names(before.data) == (names or ("0", "1", "2"))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert resolved(own(tmp_path / "two")).run_id == before.run_id
    shard(tmp_path / "two", "test", images["train"])
    assert resolved(own(tmp_path / "two")).run_id != before.run_id


def test_prepared_photographs_are_what_they_were_prepared_from(tree):
    reduced = own(tree, short_side=32)
    with pytest.raises(ValueError, match="no photographs of 32 pixels are prepared"):
        resolved(reduced)
    list(prepare(reduced.data, 0))
    content = resolved(own(tree)).data.content
    assert resolved(reduced).data.content == content
    assert identity.class_names(reduced.data) == ("a", "b", "c")
    original = tree / "train/a/a0.jpg"
    photograph = original.read_bytes()
    original.unlink()
    with pytest.raises(
        ValueError,
        match=r"prepared from other photographs than are in .* now; remove .* and prepare them again",
    ):
        resolved(reduced)
    original.write_bytes(photograph)
    assert resolved(reduced).data.content == content
    shutil.rmtree(tree / "train")  # without its originals what is prepared stays what it is
    assert resolved(reduced).data.content == content
    (note,) = tree.glob("prepared/*/originals.json")
    old = json.loads(note.read_text())
    note.write_text(json.dumps({split: old[split] for split in ("train", "val")}))
    with pytest.raises(
        ValueError, match=r"is not noted; `xceptlab data prepare` with the same options notes it"
    ):
        resolved(reduced)


def test_a_network_for_an_own_data_set_needs_the_files_only_to_count_its_classes(tree, command):
    for data in ([f"--data.root={tree}"], ["--data.root=nowhere", "--data.num_classes=3"]):
        assert command("describe", *data)[::2] == (0, [])
    code, _, said = command("describe", "--data.root=nowhere")
    assert (code, len(said)) == (2, 1)
    assert "a data set of one's own is not in" in said[0]


def test_looking_needs_no_torch_and_follows_the_files(tree):
    code = (
        "import os, sys; from xceptlab.data import resolved; from xceptlab.config.schema import DataConfig, RunConfig;"
        f"config = RunConfig(data=DataConfig(name='folder', root={str(tree)!r}));"
        "before = resolved(config).run_id;"
        f"os.remove({str(tree / 'train/a/a0.jpg')!r});"
        "print(before != resolved(config).run_id, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"


@pytest.mark.parametrize(("classes", "count"), [("", "0 classes"), ("a", "1 class")])
def test_fewer_than_two_classes_are_refused(tmp_path, classes, count):
    photographs(tmp_path, classes, train=2, val=2)
    for split in ("train", "val"):
        (tmp_path / split).mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=f"train holds {count}; at least 2 are needed"):
        resolved(own(tmp_path))


# ---- runs ----------------------------------------------------------------------------------------


def test_a_run_of_another_data_set_is_not_taken_for_this_one(tree, tmp_path, command):
    """And its record and configuration say what it was trained on."""
    other = Path(shutil.copytree(tree, tmp_path / "other"))
    (other / "train/a/a0.jpg").unlink()
    for root in (tree, other):
        code, said, _ = command("train", f"--data.root={root}")
        assert (code, said.endswith("(was trained before)")) == (0, False)
    assert len(runs(tmp_path)) == 2
    moved = shutil.move(tree, tmp_path / "moved")
    code, said, _ = command("train", f"--data.root={moved}")
    assert (code, said.endswith("(was trained before)")) == (0, True)
    for run in runs(tmp_path):
        record = RunDirectory(run).record()
        config = load_run(["-c", str(run / "config.yaml")])
        content = resolved(own(other if config.data.root == str(other) else moved)).data.content
        assert record.classes == ["a", "b", "c"]
        assert record.science["data.content"] == config.data.content == content
        assert config.run_id == record.run_id == run.name


def test_a_title_names_a_run_and_is_no_part_of_its_identity(tree, tmp_path, command):
    code, said, _ = command("train", f"--data.root={tree}", "--data.title=pets")
    assert (code, "/pets-" in said, said.endswith("(was trained before)")) == (0, True, False)
    for title in ("", "cats"):
        code, said, _ = command("train", f"--data.root={tree}", f"--data.title={title}")
        assert (code, "/pets-" in said, said.endswith("(was trained before)")) == (0, True, True)
    (run,) = runs(tmp_path)
    config = load_run(["-c", str(run / "config.yaml")])
    assert (config.data.title, config.run_id) == ("pets", run.name)


def test_a_child_whose_photographs_were_changed_refuses_to_train(tree, tmp_path, command):
    config = resolved(load_run([*TRAIN, f"--data.root={tree}"]))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.to_dict()))
    picture(tree / "train/a/a0.jpg")
    code, _, said = command("train", "-c", tmp_path / "config.yaml", layers=[])
    assert (code, len(said)) == (2, 1)
    assert "data.content: " in said[0]
    assert said[0].endswith(
        "put back what was there, or leave data.content out to train another run on what is there now"
    )
    code, _, said = command(
        "train", "-c", tmp_path / "config.yaml", "--runtime.study=pets", layers=[]
    )
    assert said[0].endswith(
        "put back what was there, or run the study pets again, which begins anew on what is there now"
    )
    assert not (tmp_path / "outputs").exists()


def test_a_run_lists_its_files_before_torch_is_loaded_and_with_the_images_and_no_more(
    tree, command, monkeypatch
):
    contents, listed = identity.contents, []

    def counted(data):
        listed.append(data)
        return contents(data)

    monkeypatch.setattr(identity, "contents", counted)
    assert command("train", f"--data.root={tree}")[0] == 0
    assert len(listed) == 2


@pytest.fixture
def interrupted(command, monkeypatch):
    """``interrupted(layers, ...)``: a run that Ctrl-C stops before its evaluation."""

    def stop(self):
        raise KeyboardInterrupt

    def run(*arguments, **options):
        with monkeypatch.context() as patch:
            patch.setattr(Task, "on_test_epoch_start", stop)
            assert command("train", *arguments, **options)[0] == 130

    return run


@pytest.mark.parametrize("change", ["a mended photograph", "a class more"])
def test_a_run_that_was_interrupted_begins_anew_on_other_photographs_and_says_so(
    tree, tmp_path, interrupted, capsys, change
):
    interrupted(f"--data.root={tree}")
    (begun,) = runs(tmp_path)
    CHANGES[change](tree)
    assert (
        cli.main(
            ["train", *TRAIN, f"--data.root={tree}", f"--runtime.outputs={tmp_path / 'outputs'}"]
        )
        == 0
    )
    assert (
        f"begins anew; {begun} was begun on other photographs, and is another run"
        in capsys.readouterr().err
    )
    assert (
        cli.main(
            [
                "train",
                *TRAIN,
                f"--data.root={tree}",
                f"--runtime.outputs={tmp_path / 'outputs'}",
                "--seed=1",
            ]
        )
        == 0
    )
    assert "begins anew" not in capsys.readouterr().err


OLD_FILES = {
    "of this version": (lambda values: values, True),
    "of a version without a field": (
        lambda values: values["data"].pop("eval_interpolation") and values,
        True,
    ),
    "of a run on another set": (
        lambda values: values | {"data": values["data"] | {"name": "imagenet", "content": ""}},
        False,
    ),
    "without a section": (lambda values: {"model": values["model"], "seed": 0}, False),
    "with an empty section": (lambda values: values | {"data": None}, False),
    "with a section that is none": (lambda values: values | {"data": ["folder"]}, False),
    "with a list": (lambda values: [values], False),
    "with nothing": (lambda values: None, False),
}


@pytest.mark.parametrize(("change", "found"), OLD_FILES.values(), ids=OLD_FILES)
def test_what_is_no_configuration_of_today_is_no_run_on_other_photographs_or_found_by_its_defaults(
    tree, tmp_path, change, found
):
    begun = resolved(
        load_run([*TRAIN, f"--data.root={tree}", f"--runtime.outputs={tmp_path / 'outputs'}"])
    )
    directory = RunDirectory.of(begun.runtime.outputs, begun.run_id)
    directory.create()
    (directory.path / "config.yaml").write_text(yaml.safe_dump(change(begun.to_dict())))
    picture(tree / "train/a/a0.jpg")
    now = resolved(dataclasses.replace(begun, data=dataclasses.replace(begun.data, content="")))
    assert begun_on_other_files(now) == (
        f"{directory.path} was begun on other photographs" if found else ""
    )


def test_a_run_on_a_known_set_was_begun_on_no_other_photographs(tiny):
    config = tiny()
    directory = RunDirectory.of(config.runtime.outputs, config.run_id)
    directory.create()
    (directory.path / "config.yaml").write_text("data: {name: digits}")
    assert begun_on_other_files(config) == ""


@pytest.fixture
def imagenet(monkeypatch, tree):
    """Options of a run on photographs that pass for ImageNet's: a known data set."""
    monkeypatch.setitem(DataConfig.CLASSES, "imagenet", 3)
    return [*TRAIN, "--data.name=imagenet", f"--data.root={tree}"]


def test_a_record_of_a_known_set_is_not_trusted_where_its_files_are_others(
    imagenet, tree, tmp_path, command
):
    assert command("train", layers=imagenet)[0] == 0
    (run,) = runs(tmp_path)
    kept = (tree / "train/a/a0.jpg").read_bytes()
    picture(tree / "train/a/a0.jpg")
    code, _, said = command("train", layers=imagenet)
    assert (code, len(said)) == (2, 1)
    assert said[0].startswith(
        f"xceptlab: {run}: trained on other data: the files of imagenet in {tree} have other names or sizes"
    )
    assert "remove this folder to train the run again" in said[0]
    code, _, said = command("evaluate", run, layers=[])
    assert (code, len(said)) == (0, 1)
    assert said[0].startswith(
        "Warning: other data than the run was trained on: the files of imagenet"
    )
    (tree / "train/a/a0.jpg").write_bytes(kept)
    assert command("train", layers=imagenet)[1].endswith("(was trained before)")
    record = RunDirectory(run).record()
    assert record.data_files.startswith("tree-")
    elsewhere = load_run([*imagenet, "--data.root=nowhere"]).data
    assert identity.changed(elsewhere, record) == ""  # without data a record is good
    # as is an older one
    assert (
        identity.changed(load_run(imagenet).data, dataclasses.replace(record, data_files="")) == ""
    )


def test_a_run_that_continues_on_other_data_than_it_began_with_is_refused(
    imagenet, tree, tmp_path, command, interrupted
):
    interrupted(layers=imagenet)
    kept = (tree / "val/a/a0.jpg").read_bytes()
    picture(tree / "val/a/a0.jpg")
    code, _, said = command("train", layers=imagenet)
    assert (code, len(said)) == (2, 1)
    assert "the run began with other data than are in" in said[0]
    (tree / "val/a/a0.jpg").write_bytes(kept)
    assert command("train", layers=imagenet)[0] == 0


PIXELS = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)


def write_cifar(root, pixels, form):
    """CIFAR-10 of a few images, in parquet files of images in this format."""
    root.mkdir(exist_ok=True)
    cells = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, form)
        cells.append({"bytes": buffer.getvalue(), "path": None})
    for split in ("train", "test"):
        table = pyarrow.table({"img": cells, "label": [i % 10 for i in range(len(cells))]})
        pyarrow.parquet.write_table(table, root / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def cifar(tmp_path):
    """Of a few images, in PNG."""
    write_cifar(tmp_path / "cifar", PIXELS, "png")
    return DataConfig(name="cifar10", root=str(tmp_path / "cifar"), size=32, crop="pad")


@pytest.fixture
def record_of_cifar(cifar, tmp_path, tree):
    seen = {"data_fingerprint": identity.fingerprint(cifar), "data_files": identity.files(cifar)}
    return leave(expand_own(tmp_path, tree), "a", 0, 90.0, **seen).record()


def test_cifar_in_other_files_is_the_same_data_and_other_images_are_not(cifar, record_of_cifar):
    """The fingerprint decides; names and sizes only spare the decoding."""
    write_cifar(Path(cifar.root), PIXELS, "bmp")
    assert identity.files(cifar) != record_of_cifar.data_files
    assert identity.changed(cifar, record_of_cifar) == ""
    write_cifar(Path(cifar.root), PIXELS // 2, "png")
    assert "have other names or sizes" in identity.changed(cifar, record_of_cifar)


@pytest.mark.parametrize("damage", [b"", b"PAR1 but cut"])
def test_cifar_that_cannot_be_read_is_other_data_and_no_error(cifar, record_of_cifar, damage):
    for file in Path(cifar.root).glob("train-*.parquet"):
        file.write_bytes(damage)
    said = identity.changed(cifar, record_of_cifar)
    assert said.startswith(f"the files of cifar10 in {cifar.root} cannot be read (")
    assert "not a readable parquet file" in said


def test_files_that_the_system_does_not_give_are_other_data_and_no_error(cifar, record_of_cifar):
    def refused(config):
        raise PermissionError(13, "Permission denied", config.root)

    said = identity.changed(cifar, record_of_cifar, refused)
    assert said.startswith(f"the files of cifar10 in {cifar.root} cannot be read (")


def test_of_a_study_whose_data_are_damaged_the_report_and_the_plan_warn_and_no_run_starts(
    cifar, tmp_path, tree, capsys
):
    layers = [
        "--data.name=cifar10",
        "--data.size=32",
        "--data.crop=pad",
        f"--data.root={cifar.root}",
    ]
    seen = {"data_fingerprint": identity.fingerprint(cifar), "data_files": identity.files(cifar)}
    leave(expand_own(tmp_path, tree, *layers), "a", 0, 90.0, **seen)
    for file in Path(cifar.root).glob("train-*.parquet"):
        file.write_bytes(b"PAR1 but cut")
    for name, expected in (("plan", 0), ("report", 0), ("study", 2)):
        options = [*TRAIN, *layers, f"--runtime.outputs={tmp_path / 'outputs'}"]
        assert cli.main([name, str(study_of(tmp_path)), *options]) == expected
        said = capsys.readouterr()
        assert f"the files of cifar10 in {cifar.root} cannot be read (" in " ".join(
            (said.err + said.out).split()
        )


def test_a_run_continues_on_equal_images_in_other_files_and_not_on_others(
    cifar, tmp_path, command, interrupted
):
    layers = [
        *TRAIN,
        "--data.name=cifar10",
        "--data.size=32",
        "--data.crop=pad",
        f"--data.root={cifar.root}",
    ]
    layers.append("--train.batch_size=20")
    interrupted(layers=layers)
    write_cifar(Path(cifar.root), PIXELS // 2, "png")
    code, _, said = command("train", layers=layers)
    assert (code, len(said)) == (2, 1)
    assert "the run began with other data than are in" in said[0]
    write_cifar(Path(cifar.root), PIXELS, "bmp")
    assert command("train", layers=layers)[0] == 0
    record = RunDirectory(runs(tmp_path)[0]).record()
    assert record.data_files == identity.files(cifar)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_of_torchvisions_files_those_that_it_reads_count(tmp_path, name):
    from torchvision.datasets import CIFAR10, CIFAR100

    theirs = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    config = DataConfig(name=name, root=str(tmp_path), size=32, crop="pad")
    folder = tmp_path / theirs.base_folder
    folder.mkdir()
    seen = {identity.files(config)}
    read = [theirs.meta["filename"], *(file for file, _ in theirs.train_list + theirs.test_list)]
    for file in read:
        (folder / file).write_bytes(b"some")
        seen.add(identity.files(config))
    assert len(seen) == len(read) + 1
    for file in (".nfs000", "readme.html", "file.txt~"):
        (folder / file).write_bytes(b"some")
    (folder / "of_mine").mkdir()
    assert identity.files(config) in seen


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenet", "folder"])
def test_names_of_classes_that_are_not_to_be_had_are_none_and_no_error(tmp_path, name):
    config = DataConfig(
        name=name, root=str(tmp_path), **({"size": 32, "crop": "pad"} if "cifar" in name else {})
    )
    assert identity.class_names(config) == ()
    if "cifar" in name:
        folder = tmp_path / {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]
        folder.mkdir()
        for file in ("batches.meta", "meta"):
            assert identity.class_names(config) == ()
            (folder / file).write_bytes(b"no pickle of torchvision's")
        assert identity.class_names(config) == ()


def test_names_of_cifars_classes_are_read_without_its_images(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    names = ["airplane", "automobile"]
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    meta = pickle.dumps({"label_names": names}, protocol=0)
    (folder / "batches.meta").write_bytes(meta)
    monkeypatch.setitem(CIFAR10.meta, "md5", hashlib.md5(meta).hexdigest())
    assert identity.class_names(
        DataConfig(name="cifar10", root=str(tmp_path), size=32, crop="pad")
    ) == tuple(names)


DIGITS = [
    "--data.name=digits",
    "--data.crop=none",
    "--data.train_images=50",
    "--data.test_images=20",
]


@pytest.mark.parametrize("package", ["scikit-learn", "numpy", "pillow"])
def test_digits_of_other_libraries_are_other_data(monkeypatch, command, tmp_path, package):
    assert command("train", layers=[*TRAIN, *DIGITS])[0] == 0
    monkeypatch.setattr(identity, "_digits_fingerprint", lambda config: "another")
    assert command("train", layers=[*TRAIN, *DIGITS])[0] == 0  # of equal versions nobody looks
    directory = RunDirectory(runs(tmp_path)[0])
    record = directory.record()
    directory.write_record(dataclasses.replace(record, versions=record.versions | {package: "0.1"}))
    code, _, said = command("train", layers=[*TRAIN, *DIGITS])
    assert (code, len(said)) == (2, 1)
    assert "trained on other data: digits has fingerprint another" in said[0]


def test_a_study_with_records_of_other_data_is_refused(monkeypatch, tmp_path, tree, command):
    from xceptlab.launch.study import run_missing

    layers = ["--data.name=digits", "--data.crop=none"]
    leave(expand_own(tmp_path, tree, *layers), "a", 0, 90.0)
    monkeypatch.setattr(identity, "_digits_fingerprint", lambda config: "another")
    said = r"other data than are here: digits has fingerprint another .* remove the folders of these runs, in .*/runs, to train"
    with pytest.raises(ValueError, match=said):
        run_missing(expand_own(tmp_path, tree, *layers), None, cli.main)
    code, _, errors = command("plan", study_of(tmp_path), layers=[*TRAIN, *layers])
    assert (code, len(errors)) == (0, 1)
    assert errors[0].startswith(
        "Warning: the data here are not those that the runs were trained on: digits has fingerprint"
    )


def test_a_run_that_an_earlier_version_made_of_own_photographs_is_read_as_what_it_is(
    tree, tmp_path, command
):
    assert command("train", f"--data.root={tree}")[0] == 0
    (run,) = runs(tmp_path)
    values = yaml.safe_load((run / "config.yaml").read_text())
    values["data"] = {"name": "imagenet", "num_classes": 3, "root": str(tree), "size": 16}
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    code, _, said = command("evaluate", run, layers=[])
    assert (code, len(said)) == (2, 1)
    assert said[0].endswith(
        "a run that an earlier version made of them is read with --data.name folder"
    )
    assert command("evaluate", run, "--data.name", "folder", layers=[])[0] == 0


def test_evaluation_on_other_photographs_is_pointed_out(tree, tmp_path, command):
    assert command("train", f"--data.root={tree}")[0] == 0
    (run,) = runs(tmp_path)
    assert command("evaluate", run, layers=[])[::2] == (0, [])
    other = photographs(tmp_path / "other", "xyz", train=2, val=2)
    code, _, said = command("evaluate", run, f"--data.root={other}", layers=[])
    assert (code, len(said)) == (0, 1)
    assert "other data than the run was trained on: " in said[0]
    assert "of other classes: x, y, z in place of a, b, c" in said[0]


def test_what_an_evaluation_does_otherwise_or_not_at_all_is_said(tree, tmp_path, command):
    assert command("train", f"--data.root={tree}")[0] == 0
    (run,) = runs(tmp_path)
    code, _, said = command(
        "evaluate", run, "--train.lr=3", "--seed=4", "--train.threads=2", layers=[]
    )
    assert (code, said) == (
        0,
        [f"Warning: --{key}: changes nothing in an evaluation" for key in ("seed", "train.lr")],
    )
    code, _, said = command("evaluate", run, "--data.size=32", layers=[])
    assert (code, said) == (
        0,
        ["Warning: data.size: evaluated with 32, the run was trained with 16"],
    )
    assert command("evaluate", run, "--data.size=16", layers=[])[2] == []
    assert command("evaluate", run, "--train.accumulate=2", layers=[])[2] == []


def test_what_a_file_gives_to_an_evaluation_is_said_as_what_the_command_line_gives(
    tree, tmp_path, command
):
    assert command("train", f"--data.root={tree}")[0] == 0
    (run,) = runs(tmp_path)
    layer = tmp_path / "layer.yaml"
    layer.write_text("data: {size: 32}\n")
    assert command("evaluate", run, "-c", layer, layers=[])[2] == [
        "Warning: data.size: evaluated with 32, the run was trained with 16"
    ]
    read, write = os.pipe()
    os.write(write, b"data: {size: 32}\n")
    os.close(write)
    assert command("evaluate", run, "-c", f"/dev/fd/{read}", layers=[])[0] == 0
    os.close(read)
    # A file that changes nothing of the evaluation does not keep its scores from being compared.
    layer.write_text("runtime: {workers: 0}\n")
    record = json.loads((run / "record.json").read_text())
    record["metrics"]["test/loss"] += 1
    (run / "record.json").write_text(json.dumps(record))
    (said,) = command("evaluate", run, "-c", layer, layers=[])[2]
    assert said.startswith("Warning: test/loss: the run's record has ")


@pytest.mark.parametrize("override", ["--model.intermediate=relu", "--model.bn_eps=0.1"])
def test_a_runs_weights_are_evaluated_and_exported_in_the_network_that_they_were_trained_in(
    tree, tmp_path, command, override
):
    assert command("train", f"--data.root={tree}")[0] == 0
    (run,) = runs(tmp_path)
    key, value = override.split("=")
    before = {"--model.intermediate": "none", "--model.bn_eps": "0.001"}[key]
    for words in (
        ("evaluate", run),
        ("evaluate", run / "model.safetensors"),
        ("export", run, "x.onnx"),
    ):
        code, _, said = command(*words, override, layers=[])
        assert (code, len(said)) == (2, 1)
        assert f"{key}: {value} is not allowed; it must be {before}, with which" in said[0]
    assert command("evaluate", run, f"{key}={before}", layers=[])[0] == 0


def test_another_runs_record_in_a_runs_folder_is_not_taken_for_its_own(tree, tmp_path, command):
    for seed in (1, 2):
        assert command("train", f"--data.root={tree}", f"--seed={seed}")[0] == 0
    one, two = runs(tmp_path)
    shutil.rmtree(two)
    shutil.copytree(one, two)
    code, _, said = command("train", f"--data.root={tree}", "--seed=2")
    assert (code, len(said)) == (2, 1)
    assert (
        f"record.json: is the record of another run, {one.name}; remove this folder to train the run anew"
        in said[0]
    )


def test_an_evaluation_that_differs_from_the_runs_record_is_pointed_out(tree, tmp_path, command):
    assert command("train", f"--data.root={tree}")[0] == 0
    (run,) = runs(tmp_path)
    assert command("evaluate", run, layers=[])[2] == []
    record = json.loads((run / "record.json").read_text())
    recorded = record["metrics"]["test/loss"] = 1.5 * record["metrics"]["test/loss"]
    (run / "record.json").write_text(json.dumps(record))
    (said,) = command("evaluate", run, layers=[])[2]
    assert said.startswith(
        f"Warning: test/loss: the run's record has {recorded:.6g}; "
        "the data, the weights, or the network's or the metric's code have changed"
    )


def test_a_training_on_other_classes_than_those_of_the_classifier_it_starts_from_is_pointed_out(
    tree, tmp_path, command
):
    assert command("train", f"--data.root={tree}")[0] == 0
    (run,) = runs(tmp_path)
    renamed = tree.with_name("renamed")
    shutil.copytree(tree, renamed)
    for split in ("train", "val"):
        (renamed / split / "a").rename(renamed / split / "z")
    code, _, said = command("train", f"--data.root={renamed}", f"--model.weights={run}")
    assert code == 0
    assert (
        "Warning: model.weights: the classifier it starts from is of other classes: a, b, c in place of b, c, z, by their order"
        in said
    )
    code, _, said = command("train", f"--data.root={tree}", f"--model.weights={run}")
    assert (code, [line for line in said if "classes" in line]) == (0, [])
    code, _, said = command("train", f"--data.root={tree}", f"--model.weights={run.name}")
    assert (code, said) == (
        2,
        [
            f"xceptlab: model.weights: {run.name}: no such file; a run is named by its folder, outputs/runs/{run.name}"
        ],
    )


def test_a_batch_of_more_images_than_there_are_is_pointed_out(tree, command):
    code, _, said = command(
        "train", f"--data.root={tree}", layers=[*TRAIN, "--train.batch_size=100"]
    )
    assert code == 0
    assert (
        "Warning: train.batch_size: 100 is more than the 12 training images: a step takes all"
        in said
    )


def test_an_option_that_nothing_reads_is_said_to_change_nothing(tree, command):
    code, _, said = command(
        "train", f"--data.root={tree}", layers=[*TRAIN, "--data.crop=none", "--data.pad=8"]
    )
    assert (code, [line for line in said if "changes nothing" in line]) == (
        0, ["Warning: --data.pad: changes nothing with data.crop none"]
    )  # fmt: skip


def test_options_of_the_training_are_said_to_change_nothing_in_an_export_and_a_description(
    tree, tmp_path, command
):
    assert command("train", f"--data.root={tree}")[0] == 0
    (run,) = runs(tmp_path)
    options = ["--train.lr=3", "--seed=4"]
    code, _, said = command("export", run, str(tmp_path / "net.pt2"), *options, layers=[])
    assert (code, said) == (
        0,
        [f"Warning: --{key}: changes nothing in an export" for key in ("seed", "train.lr")],
    )
    code, _, said = command("describe", run, *options, layers=[])
    assert (code, said) == (
        0,
        [
            f"Warning: --{key}: changes nothing in the description of a run's network"
            for key in ("seed", "train.lr")
        ],
    )


def test_an_evaluation_without_images_of_a_class_says_so(tree, tmp_path, command):
    assert command("train", f"--data.root={tree}")[0] == 0
    (run,) = runs(tmp_path)
    other = shutil.copytree(tree, tmp_path / "other")
    shutil.rmtree(other / "val/b")
    code, _, said = command("evaluate", run, f"--data.root={other}", layers=[])
    assert code == 0
    assert "Warning: test holds no image of class b" in said


@pytest.mark.parametrize("study", ["", "pets"])
def test_that_a_single_run_matches_nothing_is_said(tree, command, study):
    code, _, said = command(
        "train", f"--data.root={tree}", "--model.match=parameters", f"--runtime.study={study}"
    )
    assert code == 0
    expected = "Warning: model.match: parameters changes nothing here; a study matches its arms to the first one"
    assert (expected in said) == (study == "")


# ---- studies -------------------------------------------------------------------------------------


def expand_own(tmp_path, root, *layers):
    return expand(
        str(study_of(tmp_path)),
        [*TRAIN, f"--data.root={root}", f"--runtime.outputs={tmp_path / 'outputs'}", *layers],
    )


def study_of(tmp_path):
    study = {
        "question": "Does it help?",
        "base": [],
        "seeds": [0, 1, 2],
        "arms": {"a": {"model.residual": "all"}, "b": {"model.residual": "none"}},
        "claims": [
            {
                "id": "helps",
                "contrast": ["a", "b"],
                "metric": "test/top1",
                "kind": "superior",
                "margin": 0.5,
            }
        ],
    }
    (tmp_path / "helps.yaml").write_text(yaml.safe_dump(study))
    return tmp_path / "helps.yaml"


@pytest.fixture
def studied(tmp_path, tree, monkeypatch, capsys):
    """``studied("report", root, ...)``: exit code, output and errors. Runs are written in place of
    trained.
    """

    def run_missing(expansion, jobs, main, quiet=False):
        for (arm, seed), config in expansion.runs().items():
            if RunDirectory.of(config.runtime.outputs, config.run_id).record() is None:
                leave(expansion, arm, seed, {"a": 80 + seed / 3, "b": 70 - seed}[arm])
        from xceptlab.launch.study import Registration

        Registration.register(expansion)
        return {}

    monkeypatch.setattr("xceptlab.launch.study.run_missing", run_missing)
    # each time, not once
    monkeypatch.setattr(
        identity, "_say_once", lambda line: print(f"xceptlab: {line}", file=sys.stderr)
    )

    def run(name, root, *layers):
        options = [
            *TRAIN,
            f"--data.root={root}",
            f"--runtime.outputs={tmp_path / 'outputs'}",
            *layers,
        ]
        code = cli.main([name, str(study_of(tmp_path)), *options])
        said = capsys.readouterr()
        return code, " ".join(said.out.split()), said.err

    return run


def test_a_study_of_mended_photographs_is_trained_anew_and_its_report_is_not_the_old_one(
    studied, tree, tmp_path
):
    code, said, _ = studied("study", tree)
    assert code == 0
    assert "SUPPORTED helps" in said
    assert "Data: folder, training on train, validation on none, test on val." in said
    (report,) = (tmp_path / "outputs/studies").glob("*/report.html")
    finished = report.read_text()
    picture(tree / "train/a/a0.jpg")
    code, said, errors = studied("report", tree)
    assert code == 0
    assert f"xceptlab: {tree}: holds other photographs, train+val-3-" in errors
    assert "INCOMPLETE helps" in said
    assert "Edited after its registration: arm a: data.content train+val-3-" in said
    (kept,) = report.parent.glob("finished-*")
    assert (kept / "report.html").read_text() == finished
    assert (
        f"Warning: the study's finished report was moved to {kept}: 6 of its 6 runs are not of the study as it is now"
        in errors
    )
    assert "finished report" not in studied("report", tree)[2]
    assert "6 of 6 runs to train" in studied("plan", tree)[1]
    studied("study", tree)
    assert len(runs(tmp_path)) == 12


@pytest.mark.parametrize("name", ["report", "status", "plan"])
def test_without_the_photographs_a_study_is_read_as_it_was_registered_and_this_is_said(
    studied, tree, tmp_path, name
):
    content = expand_own(tmp_path, tree).arms["a"].data.content
    studied("study", tree)
    shutil.rmtree(tree)
    for layers, source in (
        ([], "what the study has registered"),
        ([f"--data.content={content}"], "data.content"),
    ):
        code, said, errors = studied(name, tree, *layers)
        assert code == 0
        assert {
            "report": "SUPPORTED helps",
            "status": "6 of 6 done",
            "plan": "0 of 6 runs to train",
        }[name] in said
        assert f"{source}, {content}, stands for it" in errors
    shutil.rmtree(tmp_path / "outputs/studies")
    code, _, errors = studied(name, tree)
    assert (code, len(errors.splitlines())) == (2, 1)
    assert "a data set of one's own is not in" in errors


@pytest.mark.parametrize("name", ["plan", "study"])
def test_of_classes_without_images_plan_and_study_warn_in_the_words_of_the_check(
    studied, tree, name
):
    shutil.rmtree(tree / "val/b")
    lacking = [
        "validation: of the images that a run uses none is of class",
        "test holds no image of class b",
    ]
    code, _, errors = studied(name, tree, "--data.validation=0.1")
    assert code == 0
    assert [line for line in errors.splitlines() if any(words in line for words in lacking)] == [
        f"Warning: {lacking[0]} a, b", f"Warning: {lacking[1]}",
    ]  # fmt: skip


# ---- train, val and test -------------------------------------------------------------------------


@pytest.fixture
def three(tree):
    for name in "abc":
        for i in range(3):
            picture(tree / "test" / name / f"{name}{i}.jpg", 50 * i)
    return tree


@pytest.mark.parametrize("reduced", [{}, {"short_side": 32}])
def test_of_three_parts_val_is_to_validate_on_and_test_to_test_on(three, reduced):
    data = own(three, **reduced).data
    if reduced:
        list(prepare(data, 0))
    found = splits(data)
    assert {split: len(members) for split, (_, members) in found.items()} == {
        "train": 12,
        "validation": 6,
        "test": 9,
    }
    assert len({id(source) for source, _ in found.values()}) == 3
    if not reduced:
        folders = {split: source.store.folder.name for split, (source, _) in found.items()}
        assert folders == {"train": "train", "validation": "val", "test": "test"}
    assert resolved(own(three, **reduced)).data.parts == ("train", "val", "test")


def test_of_two_parts_the_second_is_to_test_on(tree):
    for name in ("val", "test"):
        data = own(tree, validation=0.25).data
        found = splits(data)
        assert {split: len(members) for split, (_, members) in found.items()} == {
            "train": 9,
            "validation": 3,
            "test": 6,
        }
        assert found["test"][0].store.folder == tree / name
        if name == "val":
            (tree / "val").rename(tree / "test")


def test_nothing_is_held_out_where_val_is_there_to_validate_on(three, command):
    message = (
        "data.validation: 0.1 is not allowed; it must be 0, as val holds images to validate on"
    )
    for attempt in (
        lambda: splits(own(three, validation=0.1).data),
        lambda: resolved(own(three, validation=0.1)),
    ):
        with pytest.raises(ValueError, match=message):
            attempt()
    assert command("train", f"--data.root={three}", "--data.validation=0.1")[::2] == (
        2,
        [f"xceptlab: {message}"],
    )


def test_a_run_of_three_parts_validates_and_its_study_may_claim_that(three, tmp_path, command):
    code, said, _ = command("train", f"--data.root={three}")
    assert code == 0
    assert "val/top1" in said
    assert RunDirectory(runs(tmp_path)[0]).record().test_images == 9
    study = yaml.safe_load(study_of(tmp_path).read_text())
    study["claims"][0]["metric"] = "val/top1"
    (tmp_path / "validates.yaml").write_text(yaml.safe_dump(study))
    code, said, errors = command("plan", tmp_path / "validates.yaml", f"--data.root={three}")
    assert (code, errors) == (0, [])
    (three / "val").rename(three / "kept")
    assert command("plan", tmp_path / "validates.yaml", f"--data.root={three}")[0] == 2
