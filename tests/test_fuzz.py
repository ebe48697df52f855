"""Damaged configuration files, studies, tables and trees end in results or in one clear line; see
``fuzz.py``.

The suite runs some 100 cases, chosen so that every damage occurs; ``make fuzz`` runs all 2,000.
"""

import os
from pathlib import Path

import pytest

import damaged
import fuzz
import processes

CASES = {
    "configuration": "0 4 12 20 36 48 52 56 72 80 84 92 112 140 152 156 176 196 204 220 248 292 324 332 348 456 604 644 "
    "1232 1368",
    "study": "1 5 9 13 17 21 25 29 33 37 41 49 57 61 65 69 73 85 89 109 113 125 137 149 233 633 1045 1437",
    "table": "2 6 10 14 18 22 30 38 42 50 58 62 66 70 74 98 110 118 134 142 190 194 254 410",
    "tree": "3 7 11 15 19 23 27 35 39 43 51 55 71 75 107 111 127 131 135 147 191 207",
}
"""Of each kind cases in which, between them, every damage of that kind occurs, and some that end in
results.
"""


@pytest.mark.parametrize("kind", damaged.KINDS)
def test_damaged_inputs_end_in_results_or_in_one_clear_line(kind, tmp_path):
    numbers = CASES[kind].split()
    arguments = [
        "--jobs=1",
        "--seconds=60",
        f"--keep={tmp_path}",
        f"--kind={kind}",
        "--only",
        *numbers,
    ]
    done = processes.run(arguments, main=fuzz.main, seconds=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(numbers)} cases" in done.stdout
    assert " 0 results" not in done.stdout  # else something else than the damage is refused


@pytest.mark.parametrize("number", range(5 * len(damaged.KINDS)))
def test_a_case_is_a_function_of_its_number(number, tmp_path, monkeypatch):
    def made(folder: Path) -> tuple[list[list[str]], dict[bytes, bytes | str]]:
        (folder / "input").mkdir(parents=True)
        monkeypatch.chdir(folder / "input")
        commands = damaged.make(number).commands
        return commands, {os.fsencode(path): contents(path) for path in Path().rglob("*")}

    def contents(path: Path) -> bytes | str:
        if path.is_symlink():
            return os.readlink(path)
        return path.read_bytes() if path.is_file() else "no file"

    assert made(tmp_path / "once") == made(tmp_path / "again")


@pytest.mark.parametrize(
    ("code", "out", "err", "wrong"),
    [
        ("0", "All images decode.", "", ""),
        ("0", "", "Warning: few images\n", ""),
        ("2", "", "Warning: few images\nxceptlab: no.yaml: No such file or directory\n", ""),
        ("2", "Faults: 2\n", "xceptlab: a.jpg: no image\nxceptlab: b.jpg: no image\n", ""),
        ("2", "Faults: 2\n", "xceptlab: a.jpg: no image\n", "1 lines, not 2"),
        ("2", "", "", "0 lines, not 1"),
        ("2", "", "xceptlab: a\nxceptlab: b\n", "2 lines, not 1"),
        ("3", "", "xceptlab: a\n", "exit code 3"),
        ("0", "", "Corrupt JPEG data\n", "another line: Corrupt JPEG data"),
        (
            "2",
            "",
            "xceptlab: 'int' object is not subscriptable\n",
            "unclear: \"xceptlab: 'int' object is not subscriptable\"",
        ),
        ("2", "", "xceptlab: \x1b[31mred\n", "unclear: 'xceptlab: \\x1b[31mred'"),
        (
            "raised",
            "",
            'File "/src/xceptlab/cli.py", line 3, in f\nOops: 1\n',
            "raises in cli.py:3: Oops: 1",
        ),
    ],
)
def test_only_one_clear_line_is_good(code, out, err, wrong):
    assert fuzz.judge(code, out, err) == wrong


def test_hangs_deaths_and_memory_are_noticed(tmp_path):
    assert fuzz.complaint(tmp_path, 0, 0) == "the case could not be made"
    for suffix in (".command", ".out", ".err"):
        (tmp_path / "0").with_suffix(suffix).touch()
    assert fuzz.complaint(tmp_path, 6, 0) == "dies by SIGABRT in no line of ours"
    (tmp_path / "0.code").write_text("0")
    assert fuzz.complaint(tmp_path, 0, 3 * 2**20) == "takes 3.0 GB"
    assert fuzz.complaint(tmp_path, 0, 2**20) == ""
    (tmp_path / "0.err").write_text("Timeout (0:00:10)!\n")
    assert fuzz.complaint(tmp_path, 0, 0) == "hangs in no line of ours"
