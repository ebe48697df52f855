"""The command line as a user meets it: help, exit codes, and one line for whatever is wrong."""

import ast
import errno
import itertools
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

import xceptlab as package
from conftest import TINY
from made import leave, photographs
from xceptlab.cli import main
from xceptlab.runs.directory import RunDirectory
from xceptlab.study.plan import expand
from xceptlab.study.registration import Registration

ROOT = Path(__file__).parents[1]
HEAVY = [
    "torch",
    "pytorch_lightning",
    "numpy",
    "scipy",
    "rich",
    "yaml",
    "wandb",
    "altair",
    "vl_convert",
]


def loaded_by(statement: str) -> set[str]:
    """The heavy modules that a process has loaded after a statement."""
    code = f"import sys\ntry:\n    {statement}\nexcept SystemExit:\n    pass\nprint('LOADED', *set({HEAVY}) & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split("LOADED")[1].split())


# ---- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_lists_every_command(xceptlab, arguments):
    done = xceptlab(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    names = ("train", "evaluate", "export", "study", "plan", "status", "report", "describe")
    assert [name for name in names if f"    {name} " not in done.stdout] == []


def test_version(xceptlab):
    done = xceptlab("--version")
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"xceptlab {package.__version__}\n",
        "",
    )


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train", "--help"], ["study", "--help"], ["stady"], ["study", "--jbos", "2"]],
)
def test_help_and_errors_import_nothing_heavy(arguments):
    assert loaded_by(f"from xceptlab.cli import main; main({arguments})") == set()


DESCRIBE = ["describe", "-c", "configs/model/xception_tiny.yaml"]
PLAN = ["plan", "experiments/residual"]
PLACES = [
    ("xceptlab.study.plan.expand", PLAN),
    ("xceptlab.study.plan._name", PLAN),
    ("xceptlab.config.strict_yaml._refuse_traps", DESCRIBE),
    ("xceptlab.config.strict_yaml._refuse_bad_keys", DESCRIBE),
    ("xceptlab.files.decoded", DESCRIBE),
    ("xceptlab.config.fields.canonical", DESCRIBE),
    ("xceptlab.models.xception.Xception.forward", DESCRIBE),
    ("xceptlab.data.photographs.Photographs.decoded", ["data", "check"]),
    ("xceptlab.data.layouts.find_layout", ["data", "check"]),
]
DEFECTS = {
    "int": lambda: int("x"),
    "zip": lambda: list(zip([1], [1, 2], strict=True)),
    "unpacking": lambda: dict([(1, 2, 3)]),
    "file": lambda: (Path(package.__file__).parent / "table.csv").read_bytes(),
}
"""What C raises from a line of ours, and a file of the package that is not there."""
INJECTED = [
    (place, command, defect)
    for place, command in PLACES
    for defect in DEFECTS
    # A photograph that is not there is a fault of the data, which the check counts.
    if (place, defect) != ("xceptlab.data.photographs.Photographs.decoded", "file")
]


@pytest.mark.parametrize(("place", "command", "defect"), INJECTED)
def test_a_defect_is_not_shown_as_the_users_mistake(monkeypatch, tmp_path, place, command, defect):
    if command[0] == "data":
        root = photographs(tmp_path / "pictures", "ab", train=2, val=2)
        command = [*command, "--data.name=folder", f"--data.root={root}", "--data.size=32"]
    ran = []

    def defective(*arguments, **options):
        ran.append(place)
        return DEFECTS[defect]()

    monkeypatch.setattr(place, defective)
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        main(command)
    assert not isinstance(raised.value, package.Refused)
    assert ran


def test_importing_the_package_costs_nothing():
    assert loaded_by("import xceptlab") == set()


@pytest.mark.parametrize(
    "statement",
    ["import xceptlab", "from xceptlab.cli import console", "import xceptlab.study.plan"],
)
def test_without_posix_it_says_so_in_one_line(statement):
    """As on Windows, which has no ``fcntl``."""
    code = f"import sys; sys.modules['fcntl'] = None; {statement}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    said = "xceptlab: needs a POSIX system, such as Linux or macOS; on Windows it runs in WSL\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_a_refused_configuration_does_not_wait_for_torch():
    assert loaded_by(
        "from xceptlab.cli import main; main(['train', '--train.lrr', '1'])"
    ).isdisjoint({"torch", "pytorch_lightning"})


def test_the_help_of_train_lists_the_fields(xceptlab):
    done = xceptlab("train", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--train.label_smoothing" in done.stdout


def test_print_config_prints_the_result_as_yaml(xceptlab):
    done = xceptlab(
        "train",
        "-c",
        "configs/model/xception_tiny.yaml",
        "--train.lr",
        "0.25",
        "--seed",
        "7",
        "--print_config",
    )
    assert (done.returncode, done.stderr) == (0, "")
    config = yaml.safe_load(done.stdout)
    assert (config["model"]["width"], config["train"]["lr"], config["seed"]) == (0.125, 0.25, 7)


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND"]),
        (["stady"], ["stady", "did you mean study?"]),
        (["repport"], ["repport", "did you mean report?"]),
        (["xyz"], ["xyz", "see xceptlab --help"]),
        (["study", "experiments/residual", "--job=2"], ["--job=2", "did you mean --jobs?"]),
        (["report", "experiments/residual", "--publsh"], ["--publsh", "did you mean --publish?"]),
        (["evaluate", "run", "--splitt", "val"], ["--splitt", "did you mean --split?"]),
        (["train", "--seeds", "3"], ["--seeds", "did you mean --seed?"]),
        (["plan", "experiments/residual", "more"], ["more", "see xceptlab plan --help"]),
        (["plan", "experiments/residual", "--seeds", "9"], ["--seeds: 9", "between 1 and 5"]),
        (
            ["plan", "experiments/residual", "-c", "nofile.yaml"],
            ["xceptlab: nofile.yaml: No such file"],
        ),
        (
            ["plan", "experiments/residual", "--trian.lr", "3"],
            ["xceptlab: trian.lr: there is no such key"],
        ),
        (
            ["describe", "nothing", "--runtime.outputs", "TMP"],
            ["nothing: neither a configuration file nor a run under TMP"],
        ),
        (["describe", "a", "--compare", "b", "c"], ["--compare", "a is a third"]),
        (["bench", "overheads"], ["overheads", "did you mean overhead?"]),
        (["study"], ["STUDY"]),
        (["study", "experiments/none"], ["experiments/none", "no study there"]),
        (["plan", "experiments"], ["experiments", "no study there"]),
        (["report", "README-that-is-not-there"], ["no study there"]),
        (
            ["study", "experiments/residual", "--jobs", "0", "--runtime.outputs", "TMP"],
            ["--jobs", "0", "at least 1"],
        ),
        (["study", "experiments/residual", "--jobs", "many"], ["--jobs", "many"]),
        (["study", "experiments/residual", "--seed", "3"], ["--seed", "decides it"]),
        (["study", "experiments/residual", "--job", "2"], ["--job", "did you mean --jobs?"]),
        (
            ["plan", "experiments/residual", "--model.residual", "none"],
            ["--model.residual", "decides it"],
        ),
        (
            ["plan", "experiments/residual", "--data.size", "7"],
            ["data.size", "7", "between 8 and 2048"],
        ),
        (["train", "--train.lrr", "0.1"], ["train.lrr", "did you mean train.lr?"]),
        (["train", "--train.lr"], ["--train.lr", "expected one argument"]),
        (["train", "--lr", "0.1"], ["--lr", "did you mean --train.lr?"]),
        (
            ["plan", "experiments/residual", "--max_epochs=3"],
            ["--max_epochs", "did you mean --train.epochs?"],
        ),
        (["train", "-c"], ["xceptlab: argument -c/--config: expected one argument"]),
        (["train", "-c", "TMP"], ["TMP: Is a directory"]),
        (["data"], ["required: {check,prepare}"]),
        (
            ["plan", "experiments/residual", "--data.train_images", "4"],
            ["data.validation", "0.1", "one of 4 images"],
        ),
        (["train", "--model.width", "0"], ["model.width", "0.0", "at least"]),
        (["train", "-c", "absent.yaml"], ["absent.yaml"]),
        (["train", "--data.root", "TMP"], ["TMP", "train/<class>/", "image-net.org"]),
        (["train", "-c", "configs/data/cifar10.yaml", "--data.root", "TMP"], ["TMP", "cifar10"]),
        (["evaluate", "absent-run", "--runtime.outputs", "TMP"], ["absent-run", "TMP"]),
        (["evaluate", "absent-run", "--split", "train"], ["--split", "train", "test"]),
        (["describe", "--depth", "deep"], ["--depth", "deep"]),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_exit_code_2_and_nothing_is_written(
    capsys, monkeypatch, tmp_path, arguments, words
):
    monkeypatch.chdir(ROOT)
    code = main([argument.replace("TMP", str(tmp_path)) for argument in arguments])
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert len(printed.err.splitlines()) == 1
    assert printed.err.startswith("xceptlab: ")
    assert [word for word in words if word.replace("TMP", str(tmp_path)) not in printed.err] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [["stady"], ["train", "--train.lrr", "1"], ["study", "experiments/none"]],
    ids=" ".join,
)
def test_the_process_ends_with_that_line_and_code(xceptlab, arguments):
    done = xceptlab(*arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def test_the_reader_of_the_output_may_go_away():
    command = f"{sys.executable} -m xceptlab train --print_config | head -n 1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("model:\n", "")


# ---- what shows without training -----------------------------------------------------------------


def test_describe_shows_the_papers_network_with_its_cost(xceptlab):
    done = xceptlab("describe", "-c", "configs/model/xception.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    (total,) = [line for line in done.stdout.splitlines() if "total" in line]
    assert "22,855,952" in total
    assert "8,357,403,496" in total
    assert "2048x10x10" in done.stdout


def test_describe_states_what_regular_convolutions_would_cost(xceptlab):
    done = xceptlab("describe")  # without a data file: 1,000 classes at 299
    assert "One image of 299x299, 1000 classes" in done.stdout
    text = " ".join(done.stdout.split())
    assert "179,071,688 parameters (7.83 times as many), 68,818,345,696 MACs (8.23 times)" in text
    (line,) = [line for line in done.stdout.splitlines() if "separable2" in line]
    numbers = (
        13_824 + 3_145_728,
        100 * (13_824 + 3_145_728),
        9 * 1536 * 2048,
        9 * 1536 * 2048 * 100,
    )
    assert [number for number in numbers if f"{number:,}" not in line] == []


def test_describe_compares_two_variants_side_by_side(xceptlab, tmp_path):
    (tmp_path / "none.yaml").write_text("model: {residual: none}")
    done = xceptlab("describe", "--compare", "configs/model/xception.yaml", tmp_path / "none.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    (total,) = [line for line in done.stdout.splitlines() if "total" in line]
    assert [
        n
        for n in ("22,855,952", "21,878,880", "0.957", "8,357,403,496", "8,125,858,664", "0.972")
        if n not in total
    ] == []
    assert "- entry.block1.skip Sequential" in done.stdout


def test_plan_shows_the_difference_of_each_arm_and_creates_nothing(xceptlab, tmp_path):
    wide = {**os.environ, "COLUMNS": "200"}
    done = xceptlab(
        "plan", "experiments/residual", "--runtime.outputs", str(tmp_path / "outputs"), env=wide
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "model.residual: all -> none" in done.stdout
    assert "0 of 5" in done.stdout
    assert "10 of 10 runs to train" in done.stdout
    assert "Claim residual-helps" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_plan_names_the_base_of_the_budgets_and_warns_of_fewer_images_than_classes(
    xceptlab, tmp_path
):
    few = ("--data.train_images=9", "--data.validation=0.2", "--data.test_images=7")
    wide = {**os.environ, "COLUMNS": "200"}
    done = xceptlab("plan", "experiments/residual", f"--runtime.outputs={tmp_path}", *few, env=wide)
    assert done.returncode == 0
    assert "Each arm against the baseline, residual " in done.stdout
    assert done.stderr.splitlines() == [
        f"Warning: {count} images for 10 classes"
        for count in ("7 training", "2 validation", "7 test")
    ]


def test_plan_shows_text_with_brackets_as_it_is(xceptlab, tmp_path):
    text = (ROOT / "experiments/residual/study.yaml").read_text()
    (tmp_path / "study.yaml").write_text(
        text.replace("Do residual connections help Xception?", "'Does it help [/relu] or [red]?'")
    )
    done = xceptlab("plan", str(tmp_path), "--runtime.outputs", str(tmp_path / "outputs"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "Does it help [/relu] or [red]?" in done.stdout


@pytest.mark.parametrize("command", ["plan", "status", "report"])
def test_from_another_folder_nothing_is_made_and_it_is_said_where_the_runs_were_looked_for(
    tmp_path, monkeypatch, capsys, command
):
    monkeypatch.chdir(tmp_path)
    assert main([command, "residual"]) == (2 if command == "report" else 0)
    assert f"residual: no run of it is in {tmp_path}/outputs/runs; --runtime.outputs" in "".join(
        capsys.readouterr()
    )
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_one_line(xceptlab, tmp_path):
    (tmp_path / "outputs").write_text("a file, where a folder is needed")
    done = xceptlab(
        "report", "experiments/residual", "--runtime.outputs", str(tmp_path / "outputs")
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path / "outputs") in done.stderr


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_where_no_report_can_be_written_the_verdicts_are_shown_and_the_file_is_named(
    tmp_path, capsys, monkeypatch, error
):
    options = [f"--runtime.outputs={tmp_path}", "--seeds=3"]
    whole = expand("experiments/residual", options[:1])
    for arm, seed in itertools.product(whole.arms, range(3)):
        leave(whole, arm, seed, 97.0 + seed if arm == "residual" else 60.0 + 2 * seed)

    def refuse(file, *_, **options):
        raise OSError(error, os.strerror(error), str(file))

    monkeypatch.setattr("xceptlab.files.open", refuse, raising=False)
    monkeypatch.setattr(Path, "unlink", refuse)  # as on a read-only file system
    assert main(["report", "experiments/residual", *options]) == 1
    said = capsys.readouterr()
    assert "SUPPORTED  residual-helps" in said.out
    assert "Report:" not in said.out
    file = tmp_path / "studies/residual+seeds3/files.txt"
    assert said.err == f"xceptlab: no report was written: {file}: {os.strerror(error)}\n"


def test_a_full_disk_is_one_line_and_exit_code_1(tmp_path):
    (tmp_path / "studies/residual").mkdir(parents=True)
    code = (
        "import errno, os, sys\n"
        "def full(*args): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'somewhere')\n"
        "os.fsync = full\n"
        "from xceptlab.cli import main\n"
        f"sys.exit(main(['report', 'experiments/residual', '--runtime.outputs', {str(tmp_path)!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"xceptlab: no report was written: {tmp_path}")
    assert done.stderr.endswith(": No space left on device\n")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_ctrl_c_is_one_line_and_exit_code_130():
    code = (
        "import sys\n"
        "import xceptlab.cli as cli\n"
        "def stop(argv): raise KeyboardInterrupt\n"
        "cli._dispatch = stop\n"
        "sys.exit(cli.main([]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == "xceptlab: interrupted; the same command continues\n"


@pytest.mark.parametrize("by", ["folder", "id"])
def test_describe_shows_the_network_of_a_run(tmp_path, capsys, by):
    directory = leave(
        expand("experiments/residual", [f"--runtime.outputs={tmp_path}"]), "no_residual", 0, 90.0
    )
    (directory.path / "config.yaml").write_text(
        "model: {residual: none, width: 0.125}\ndata: {name: digits, size: 16, crop: none}"
    )
    named = str(directory.path) if by == "folder" else directory.path.name
    assert main(["describe", named, "--depth", "1", f"--runtime.outputs={tmp_path}"]) == 0
    assert "One image of 16x16, 10 classes" in capsys.readouterr().out
    assert (
        main(
            [
                "describe",
                "--compare",
                named,
                "configs/model/xception.yaml",
                f"--runtime.outputs={tmp_path}",
            ]
        )
        == 0
    )
    assert "entry.block1.skip" in capsys.readouterr().out


@pytest.fixture
def pointwise_first(tmp_path):
    """A run of digits whose options another network, or another data set, does not allow."""
    directory = leave(
        expand("experiments/residual", [f"--runtime.outputs={tmp_path}"]), "no_residual", 0, 90.0
    )
    (directory.path / "config.yaml").write_text(
        "model: {order: pointwise_first, width: 0.125}\ndata: {name: digits, size: 16, crop: none}"
    )
    return directory.path


@pytest.mark.parametrize(
    "options", [["--model.segments=1"], ["--data.crop=pad"], ["--print_config"], ["-c", "LAYER"]]
)
def test_a_run_that_is_named_by_its_id_is_that_of_its_folder(
    pointwise_first, tmp_path, capsys, options
):
    layer = tmp_path / "layer.yaml"
    layer.write_text(f"runtime: {{outputs: {tmp_path}}}\nmodel: {{segments: 1}}\n")
    options = [str(layer) if piece == "LAYER" else piece for piece in options]
    said = []
    for name in (str(pointwise_first), pointwise_first.name):
        with suppress(SystemExit):
            assert main(["describe", name, *options, f"--runtime.outputs={tmp_path}"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert ("pointwise_first" in said[0]) == (options == ["--print_config"])


def test_sync_prints_no_configuration_and_sends_nothing_then(pointwise_first, capsys):
    assert main(["sync", str(pointwise_first), "--print_config"]) == 2
    assert "--print_config: nothing is trained here" in capsys.readouterr().err


def test_depth_and_compare_exclude_each_other(capsys):
    models = ["configs/model/xception.yaml", "configs/model/xception_tiny.yaml"]
    assert main(["describe", "--compare", *models, "--depth", "1"]) == 2
    assert "--depth: must be left out with --compare" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoints/step.ckpt"])
def test_describe_shows_the_network_of_weights_in_a_runs_folder_and_refuses_lone_ones(
    tmp_path, capsys, name
):
    file = tmp_path / "run" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\xe8 not text")
    assert main(["describe", str(file)]) == 2
    assert (
        f"{file}: weights alone do not tell their network; there is no config.yaml"
        in capsys.readouterr().err
    )
    (tmp_path / "run/config.yaml").write_text(
        "model: {width: 0.125}\ndata: {name: digits, size: 16, crop: none}"
    )
    assert main(["describe", str(file), "--depth", "1"]) == 0
    assert "One image of 16x16, 10 classes" in capsys.readouterr().out


def test_a_run_whose_name_read_otherwise_before_is_found_and_not_trained_again(tmp_path, capsys):
    options = [f"--runtime.outputs={tmp_path}"]
    directory = leave(expand("experiments/residual", options), "no_residual", 0, 90.0)
    name, _, digest = directory.path.name.rpartition("-")
    assert name == "digits-residual_none-seed0"
    older = directory.path.rename(directory.path.with_name(f"digits-as-it-was-{digest}"))
    (older / "config.yaml").write_text("data: {name: digits, size: 16, crop: none}")
    assert main(["status", "experiments/residual", *options]) == 0
    assert "1 of 10 done" in capsys.readouterr().out
    for by in (f"{name}-{digest}", older.name, digest):
        assert main(["describe", by, "--depth", "1", *options]) == 0
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == [older.name]


def test_a_first_look_is_reported_by_its_own_name_and_registers_nothing_of_the_study(
    tmp_path, capsys
):
    options = [f"--runtime.outputs={tmp_path}"]
    whole = expand("experiments/residual", options)
    for arm, seed in itertools.product(whole.arms, range(3)):
        leave(whole, arm, seed, 97.0 + seed if arm == "residual" else 60.0 + 2 * seed)
    assert main(["report", "experiments/residual", "--seeds", "3", *options]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "SUPPORTED residual-helps" in said
    assert (
        "This is a first look with 3 of the study's 5 seeds; its verdicts are not the study's."
        in said
    )
    assert [folder.name for folder in (tmp_path / "studies").iterdir()] == ["residual+seeds3"]
    assert main(["status", "experiments/residual", "--seeds", "4", *options]) == 0
    assert "6 of 8 done" in capsys.readouterr().out


def test_two_studies_of_one_name_do_not_overwrite_each_others_report(tmp_path, capsys):
    text = (ROOT / "experiments/residual/study.yaml").read_text()
    for folder, margin in (("a", "0.5"), ("b", "2.5")):
        (tmp_path / folder / "residual").mkdir(parents=True)
        (tmp_path / folder / "residual/study.yaml").write_text(
            text.replace("margin: 0.5", f"margin: {margin}")
        )
    options = [f"--runtime.outputs={tmp_path}"]
    first = expand(str(tmp_path / "a/residual"), options)
    Registration.register(first)
    assert main(["report", str(tmp_path / "a/residual"), *options]) == 0
    page = (first.directory() / "report.html").read_bytes()
    capsys.readouterr()
    for command in ("report", "plan", "status", "study"):
        assert main([command, str(tmp_path / "b/residual"), *options]) == 2
        said = capsys.readouterr().err
        assert (
            f"belongs to another study of this name, {(tmp_path / 'a/residual/study.yaml').resolve()}; rename"
            in said
        )
        assert len(said.splitlines()) == 1
    assert (first.directory() / "report.html").read_bytes() == page


def test_train_says_where_the_record_is(tmp_path, capsys):
    arguments = ["train", *TINY, "--train.epochs=1", f"--runtime.outputs={tmp_path}"]
    for before in (False, True):
        assert main(arguments) == 0
        said = capsys.readouterr().out.splitlines()[-1]
        (file,) = (tmp_path / "runs").glob("*/record.json")
        assert said.startswith(f"{file.parent}: val/top1 ")
        assert said.endswith(" (was trained before)") == before


BENCHMARKS = sorted(file.stem for file in (ROOT / "benchmarks").glob("[!_]*.py"))


def test_bench_refuses_what_it_does_not_have_and_says_what_it_has(xceptlab):
    done = xceptlab("bench", "nothing")
    said = f"xceptlab: nothing: no such benchmark; there are {', '.join(BENCHMARKS)}\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_bench_without_a_name_lists_its_programs_with_a_line_each(xceptlab):
    done = xceptlab("bench")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert [name for name, _ in rows] == BENCHMARKS
    assert all(about for _, about in rows)


@pytest.mark.parametrize("name", ["overhead", "report_size"])
def test_the_help_of_a_benchmark_is_its_own_and_nothing_is_measured(xceptlab, name):
    done = xceptlab("bench", name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    about = ast.get_docstring(ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text()))
    assert done.stdout.startswith(about)
    assert "--train.lr" not in done.stdout


def test_bench_hands_on_what_follows_the_name(xceptlab):
    done = xceptlab("bench", "loader", "--help")
    assert done.returncode == 0
    assert "--photographs" in done.stdout


# ---- seeds until decided -------------------------------------------------------------------------


def test_a_study_adds_seeds_until_its_claims_are_decided_and_no_more(tmp_path, monkeypatch, capsys):
    """With runs that are written in place of trained; a claim that is decided early is frozen while
    the other goes on.
    """
    scores = {"all": [97.0, 97.4, 97.2, 10.0, 10.0], "none": [90.0, 90.1, 90.5, 90.0, 90.0]}
    trained: list[tuple[str, int]] = []

    def run_missing(expansion, jobs, main, quiet):
        for (arm, seed), config in expansion.runs().items():
            if RunDirectory.of(config.runtime.outputs, config.run_id).record() is None:
                trained.append((arm, seed))
                leave(expansion, arm, seed, scores[arm][seed])
        return {}

    monkeypatch.setattr("xceptlab.launch.study.run_missing", run_missing)
    claims = [
        {
            "id": name,
            "contrast": ["all", "none"],
            "metric": "test/top1",
            "kind": "superior",
            "margin": margin,
        }
        for name, margin in (("easy", 0.5), ("hopeless", 7.0))
    ]

    def run(command: str, *of: dict) -> str:
        study = {
            "question": "Does it help?",
            "base": [str(ROOT / "configs/data/digits.yaml")],
            "seeds": {"start": 3, "step": 1, "max": 5, "stop": "decided"},
            "arms": {name: {"model.residual": name} for name in scores},
            "claims": list(of),
        }
        (tmp_path / "until.yaml").write_text(yaml.safe_dump(study))
        assert (
            main(
                [command, str(tmp_path / "until.yaml"), f"--runtime.outputs={tmp_path / 'outputs'}"]
            )
            == 0
        )
        return " ".join(capsys.readouterr().out.split())

    assert (
        "6 of 6 runs to train; then 1 more seed at a time until every claim is decided, 5 at most."
        in run("plan", claims[0])
    )
    assert "3 of at most 5 seeds" in run("study", claims[0])
    assert sorted(trained) == [(arm, seed) for arm in ("all", "none") for seed in range(3)]
    said = run("plan", *claims)
    assert "3 pairs have mean +7.00" in said
    assert "chance to be decided by 5 seeds" in said
    said = run("study", *claims)
    assert sorted(trained) == [(arm, seed) for arm in ("all", "none") for seed in range(5)]
    assert "SUPPORTED easy" in said
    assert "3 of at most 5 seeds" in said
    assert "INCONCLUSIVE hopeless" in said


def test_keys_that_the_network_does_not_read_are_pointed_out(capsys):
    keys = ["--model.convolution=regular", "--model.intermediate=relu", "--model.width=0.25"]
    assert main(["describe", "-c", "configs/model/xception_tiny.yaml", *keys, "--depth=1"]) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "Warning" in line]
    said = "Warning: --model.intermediate: changes nothing with model.convolution regular"
    assert warnings == [said]
