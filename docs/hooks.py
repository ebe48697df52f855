"""What the built manual has beyond the pages in docs/: the commands' help, the published reports
and the measurements.
"""

import io
import os
import re
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import yaml
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: Any) -> Files:
    """Add the files outside of docs/ to which its pages link, under the paths that they have in the
    repository.
    """
    studies = sorted((ROOT / "experiments").glob("*/*"))
    pages = [
        ROOT / "experiments" / "README.md",
        ROOT / "benchmarks" / "README.md",
        *sorted((ROOT / "benchmarks" / "results").glob("*.md")),
    ]
    for path in [*studies, *pages]:
        files.append(
            File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path))
        )
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Complete the pages that end in a list of what is in the code, and point links to the
    repository at the copies.
    """
    if page.file.src_uri == "commands.md":
        markdown += _help_of_every_command()
    if page.file.src_uri == "gallery.md":
        markdown += _published_studies()
    return markdown.replace("](../", "](") if "/" not in page.file.src_uri else markdown


def _help_of_every_command() -> str:
    text = ""
    for name in re.findall(r"^    (\w+)", _printed("--help"), re.M):
        text += f"\n## xceptlab {name}\n\n```text\n{_printed(name, '--help').rstrip()}\n```\n"
    return text


def _printed(*arguments: str) -> str:
    from xceptlab.cli import main

    os.environ["COLUMNS"] = "100"
    output = io.StringIO()
    with redirect_stdout(output), suppress(SystemExit):
        main([*arguments])
    return output.getvalue()


def _published_studies() -> str:
    text = ""
    for report in sorted((ROOT / "experiments").glob("*/report.md")):
        name = report.parent.name
        study = yaml.safe_load((report.parent / "study.yaml").read_text("utf-8"))
        text += f"\n## [{study['question']}](experiments/{name}/report.md)\n"
        for claim in study["claims"]:
            text += f"\n- {claim['statement']}"
        text += f"\n\n![Differences with their intervals against the margins](experiments/{name}/differences.svg)\n"
    return text
