"""The tutorial does what it says: its files are written and commands run, in an empty folder; they
print what stands there.
"""

import os
import re
import shlex
import subprocess
import sys

import processes
from conftest import ROOT

BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)


def test_the_tutorial_can_be_followed_to_the_letter(tmp_path):
    environment = dict(os.environ, WANDB_MODE="offline", CUDA_VISIBLE_DEVICES="")
    printed = ""
    for language, title, text in BLOCK.findall((ROOT / "docs" / "tutorial.md").read_text()):
        if title:
            (tmp_path / title).parent.mkdir(exist_ok=True)
            (tmp_path / title).write_text(text)
        elif language == "bash":
            name, *arguments = shlex.split(text)
            if name == "xceptlab":
                done = processes.run(arguments, environment, tmp_path)
            else:
                assert name == "python"
                done = subprocess.run(
                    [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True
                )
            printed = done.stdout + done.stderr
            assert done.returncode == 0, printed
        else:
            assert language == "text"
            assert re.search(re.escape(text.strip()).replace(r"\.\.\.", ".*"), printed, re.S), (
                printed
            )
    assert (tmp_path / "flip" / "report.md").is_file()
    assert "SUPPORTED" in (tmp_path / "flip" / "report.md").read_text().upper()
