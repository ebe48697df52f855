"""The command ``data``, which checks a data set or prepares reduced photographs of it."""

import argparse
import warnings

from xceptlab.commands.remarks import warn
from xceptlab.config.loading import load_run
from xceptlab.config.schema import RunConfig
from xceptlab.errors import BAD_INPUT, Refused
from xceptlab.text import say


def data(options: argparse.Namespace, layers: list[str]) -> int:
    """Check a data set as a run would use it, or prepare reduced photographs of it, in the size
    that data.short_side says. Faults that a check finds end it with exit code 2.
    """
    config = load_run(layers)
    # torch warns of more workers than cores, but this is what the user asked for.
    warnings.filterwarnings("ignore", "This DataLoader will create")
    if options.action == "prepare":
        return _prepare_photographs(config)
    return _check_data(config, options.all)


def _check_data(config: RunConfig, everything: bool) -> int:
    """Check a data set, print a table of its splits and each fault that is found, and return the
    exit code.

    Args:
        config: Configuration of a run on the data set.
        everything: Whether to decode all photographs, in place of a sample of each split, and to
            count a picture of a user's own data set that is in two splits or in two classes as a
            fault.

    Returns:
        ``BAD_INPUT`` where there are faults, else 0.

    Raises:
        Refused: The data set is not there, is damaged, or has too few images for what is asked of
            it.
        OSError: A file cannot be read, other than that of a single photograph, which is a fault.
    """
    from rich.console import Console
    from rich.table import Table

    from xceptlab.data.check import Counts, Remark, check
    from xceptlab.data.identity import resolved_data

    view = Table("split", "images", "classes", "smallest class", "largest class")
    faults = 0
    data = resolved_data(config.data)
    for finding in check(data, everything, config.runtime.workers):
        if isinstance(finding, Counts):
            images = f"{finding.images:,}"
            if finding.images < finding.available:
                images += f" of {finding.available:,}"
            view.add_row(
                finding.split,
                images,
                f"{finding.classes:,}",
                f"{finding.smallest:,}",
                f"{finding.largest:,}",
            )
            warn(finding.notes)
        elif isinstance(finding, Remark):
            warn([finding.text])
        else:
            say(finding)
            faults += 1
    if view.rows:
        print(f"{data.splits()}.")
        Console().print(view)
    if faults:
        print(f"Faults: {faults}")
        return BAD_INPUT
    print("All images decode." if everything else "All sampled images decode.")
    return 0


def _prepare_photographs(config: RunConfig) -> int:
    """Write copies of the photographs, reduced to a shorter side of ``data.short_side`` pixels,
    with a progress bar, and return the exit code 0. Smaller photographs are not enlarged.

    Raises:
        Refused: ``data.short_side`` is 0, so that there is no size; the originals are not there,
            or have faults as a data set; one cannot be decoded and ``data.on_corrupt`` is
            ``error``; the folder holds photographs that were prepared from other originals; or
            another process is preparing photographs there.
        OSError: An original cannot be read, or a copy cannot be written.
    """
    if not config.data.short_side:
        raise Refused(
            "data.short_side: 0 is not allowed; to prepare, it must be the pixels wanted, such as 256"
        )
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from xceptlab.data.layouts import prepared_folder
    from xceptlab.data.prepare import prepare

    with Progress(
        "{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    ) as view:
        task = view.add_task("Photographs", total=None)
        for done, total in prepare(config.data, config.runtime.workers):
            view.update(task, completed=done, total=total)
    print(
        f"Prepared in {prepared_folder(config.data)}; `xceptlab data check --all` with the same options verifies every checksum."
    )
    return 0
