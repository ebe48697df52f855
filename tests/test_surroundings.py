"""What a user's machine may lack: a home and a name, UTF-8 in the terminal."""

import getpass
import io
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest

from conftest import ROOT, TINY
from xceptlab import cli
from xceptlab.config import shipped
from xceptlab.config.loading import load_run
from xceptlab.config.schema import LauncherConfig, ModelConfig
from xceptlab.study.claims import Claim
from xceptlab.study.definition import Paper
from xceptlab.study.plan import expand

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
OPTIONS = [argument for argument in TINY if argument.startswith("--")]


@pytest.fixture
def study(tmp_path):
    """A study with letters, dashes and arrows in its name and its texts."""
    layers = [argument for flag, argument in pairwise(TINY) if flag == "-c"]
    file = tmp_path / "résidu.yaml"
    file.write_text(
        f"question: Hélfen sie – 1 × 1 → oder nicht?\nbase: {json.dumps(layers)}\nseeds: [0]\n"
        "arms: {mit: {}, ohne: {model.residual: none}}\n"
        "claims: [{id: better, statement: Es hilft – naïvement., contrast: [mit, ohne], metric: test/top1, kind: superior,"
        " margin: 1.0}]\n",
        "utf-8",
    )
    return str(file)


def test_a_study_is_read_run_shown_and_reported_where_only_ascii_can_be_shown(study, tmp_path):
    """In one interpreter, which starts there, and the server of the study's runs."""
    shown = {
        "plan": "H?lfen sie - 1 x 1 -> oder nicht?",
        "study": "better: Es hilft - na?vement.",
        "status": "2 of 2 done",
        "report": "H?lfen sie - 1 x 1 -> oder nicht?",
    }
    code = (
        "import sys\n"
        "from xceptlab.cli import main\n"
        "for command in sys.argv[1].split():\n"
        "    if code := main([command, *sys.argv[2:]]):\n"
        "        sys.exit(code)\n"
        "    print('-- end of', command)\n"
    )
    command = [
        sys.executable,
        "-c",
        code,
        " ".join(shown),
        study,
        *OPTIONS,
        f"--runtime.outputs={tmp_path / 'outputs'}",
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | ASCII, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    rest = done.stdout
    for command, text in shown.items():
        printed, _, rest = rest.partition(f"-- end of {command}\n")
        assert text in printed
    (report,) = (tmp_path / "outputs").glob("studies/*/report.md")
    text = report.read_text("utf-8")
    assert "Hélfen sie – 1 × 1 → oder nicht?" in text
    assert "résidu.yaml" in report.with_name("report.html").read_text("utf-8")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_nothing_that_is_printed_is_an_error(monkeypatch, encoding):
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding))
    assert cli.main(["describe", *TINY]) == 0
    print("– → × ≥ é ☃ \udce9")
    sys.stdout.flush()
    assert output.getvalue()
    if encoding == "ascii":
        assert output.getvalue().endswith(b"- -> x >= ? ? ?\n")


def test_a_user_without_an_entry_and_a_home_gets_both(monkeypatch, tmp_path):
    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    for _ in range(2):  # the next command finds what this one has cached
        monkeypatch.delenv("HOME", raising=False)
        cli._have_a_home()
        assert Path.home() == tmp_path / f"xceptlab-{os.getuid()}"
        assert Path.home().stat().st_mode & 0o777 == 0o700
        assert getpass.getuser() == str(os.getuid())


def test_a_home_that_is_there_stays(monkeypatch):
    before = Path.home(), getpass.getuser()
    cli._have_a_home()
    assert (Path.home(), getpass.getuser()) == before


UNKNOWN = ["unshare", "--user", "--map-user=12345"]  # as who the files are one's own still
ALLOWED = (
    shutil.which("unshare")
    and subprocess.run([*UNKNOWN, "true"], capture_output=True).returncode == 0
)


@pytest.mark.skipif(not ALLOWED, reason="no user namespaces here")
def test_an_unknown_user_without_a_home_trains_and_reports(study, tmp_path):
    environment = {
        name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME")
    }
    command = [
        sys.executable,
        "-m",
        "xceptlab",
        "study",
        study,
        *OPTIONS,
        f"--runtime.outputs={tmp_path / 'outputs'}",
    ]
    done = subprocess.run(
        [*UNKNOWN, *command, "--runtime.wandb=offline"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_a_tilde_in_a_configuration_is_the_users_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text(
        "{data: {root: ~/images, cache: ~/cache}, runtime: {outputs: ~/outputs}}"
    )
    for layers in (
        ["-c", "~/mine.yaml"],
        ["--config=~/mine.yaml"],
        ["--data.root=~/images", "--data.cache=~/cache"],
    ):
        config = load_run(layers)
        assert config.data.root == str(tmp_path / "images")
        assert config.data.cache == str(tmp_path / "cache")
    assert load_run(["-c", "~/mine.yaml"]).runtime.outputs == str(tmp_path / "outputs")
    assert load_run(["--data.root=./~", "--data.cache=~no_such_user/x"]).data.root == "./~"
    assert load_run(["--data.root=~"]).run_id == load_run().run_id
    assert shipped.find("~/mine.yaml") == tmp_path / "mine.yaml"
    for command in (
        ["describe", "~/mine.yaml"],
        ["describe", "--compare", "~/mine.yaml", "~/mine.yaml"],
    ):
        assert cli.main(command) == 0
    (tmp_path / "study.yaml").write_text(
        "question: Is it?\nbase: [~/mine.yaml]\narms: {a: {}, b: {model.width: 2}}\nseeds: [0]\n"
    )
    assert expand(str(tmp_path / "study.yaml"), []).arms["a"].data.root == str(tmp_path / "images")


@pytest.mark.parametrize("text", ["~", "~/a", "~root", "~ 2 points better"])
def test_a_tilde_in_what_is_no_path_stays_one(monkeypatch, tmp_path, text):
    monkeypatch.setenv("HOME", str(tmp_path))
    claim = Claim(
        id=text,
        contrast=("a", "b"),
        metric="test/top1",
        kind="superior",
        margin=0.0,
        statement=text,
    )
    assert (claim.id, claim.statement) == (text, text)
    assert Paper(ref=text).ref == text
    assert ModelConfig(timm=text).timm == text
    config = LauncherConfig(partition=text, account=text)
    assert (config.partition, config.account) == (text, text)
