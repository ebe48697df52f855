"""The main path with the oldest and the newest Lightning, timm and torch that pyproject.toml
allows.

    make compat                                                  both, of all three python
    tests/compat.py --packages pytorch-lightning timm     both, with the torch that is installed
    python tests/compat.py --ends oldest                         the oldest only

Each end gets an environment of its own, which is thrown away: pip installs the packages in question
there, and everything else is seen from the environment that runs this. torch is some gigabytes,
unless pip finds a wheel for CPUs.
"""

import argparse
import re
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]

TOGETHER = {
    "pytorch-lightning": ["pytorch-lightning"],
    "timm": ["timm"],
    "torch": ["torch", "torchvision"],
}
"""By package what is installed with it: a version of torchvision fits one of torch."""

TESTS = (
    "tests/training/test_lightning.py",
    "tests/training/test_train.py::test_a_run_leaves_all_that_the_report_needs",
    "tests/training/test_train.py::test_optimizers_train",
    "tests/training/test_train.py::test_the_evaluated_weights_are_the_average",
    "tests/training/test_train.py::test_the_progress_bar_counts_epochs_from_1_as_the_log_does",
    "tests/training/test_train.py::test_an_interrupted_run_continues_to_the_same_bits",
    "tests/training/test_train.py::test_two_processes_train_and_count_every_test_image_once",
    "tests/training/test_capture.py::test_replayed_steps_come_to_the_same_bits",
    "tests/study/test_studies.py::test_a_study_is_interrupted_continued_and_then_only_judged",
    "tests/models/test_export.py::test_timms_layout_goes_out_and_in_to_the_same_bits",
    "tests/models/test_export.py::test_torchs_program_computes_the_same_for_any_batch",
    "tests/models/test_export.py::test_timms_own_models_are_exported_and_say_which_images_are_too_small",
)
"""The main path: train, continue after a kill, a study, captured steps (on a CPU), export."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests at each end; returns 1 if any failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--packages",
        nargs="+",
        choices=TOGETHER,
        default=list(TOGETHER),
        help="the others stay as installed",
    )
    parser.add_argument(
        "--ends", nargs="+", choices=("oldest", "newest"), default=["oldest", "newest"]
    )
    given = parser.parse_args(arguments)
    results = {}
    for end in given.ends:
        print(f"== {end}: {' '.join(requirements(given.packages, end))}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            python = environment(Path(folder), requirements(given.packages, end))
            subprocess.run([python, "-c", VERSIONS, *TOGETHER], check=True)
            results[end] = subprocess.run(
                [python, "-m", "pytest", "-p", "no:cacheprovider", *TESTS], cwd=ROOT
            ).returncode
    for end, code in results.items():
        print(f"{end}: {'passed' if code == 0 else 'failed'}")
    return int(any(results.values()))


VERSIONS = "import importlib.metadata, sys; print(*(f'{name} {importlib.metadata.version(name)}' for name in sys.argv[1:]))"


def requirements(packages: Sequence[str], end: str) -> list[str]:
    """What pip is asked for: pyproject.toml's own requirements for the newest, their lower bounds
    for the oldest.
    """
    with open(ROOT / "pyproject.toml", "rb") as file:
        declared = tomllib.load(file)["project"]["dependencies"]
    by_name = {re.split("[<>=]", requirement)[0]: requirement for requirement in declared}
    wanted = [by_name[name] for package in packages for name in TOGETHER[package]]
    return (
        wanted
        if end == "newest"
        else [re.sub(r">=([\d.]+).*", r"==\1", requirement) for requirement in wanted]
    )


def environment(folder: Path, wanted: Sequence[str]) -> Path:
    """The Python of a new environment with the packages wanted, which sees this one's other
    packages and this checkout.
    """
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    installed = sysconfig.get_path("purelib")
    site_packages = sysconfig.get_path(
        "purelib", vars={"base": str(folder), "platbase": str(folder)}
    )
    lines = [str(ROOT / "src"), f"import site; site.addsitedir({installed!r})"]
    Path(site_packages, "beneath.pth").write_text("\n".join(lines) + "\n", "utf-8")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "--quiet",
            "--upgrade",
            *wanted,
        ],
        check=True,
    )
    return python


if __name__ == "__main__":
    sys.exit(main())
