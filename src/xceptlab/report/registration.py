"""Warn of what makes it doubtful that a study's claims were made before its scores were known.

A study's registration, ``registered.yaml``, is written before its first run and has the claims. The
warnings are of a missing one, of later edits, of runs from before it, and of seeds that were added
after the verdict.
"""

import math

from xceptlab.runs.record import Record
from xceptlab.study.choice import Records
from xceptlab.study.definition import Seeds
from xceptlab.study.expansion import Expansion
from xceptlab.study.registration import Registration
from xceptlab.study.wording import named
from xceptlab.text import counted


def warnings_without_registration(expansion: Expansion, records: Records) -> list[str]:
    """Return a warning, in a list of one, if a run is done and the study has no registration, which
    would prove that its claims were made before the run. Else the list is empty, as always for a
    first look (``--seeds``), which decides no claim.

    Args:
        expansion: The study.
        records: Records of all its runs, by (trial, seed).

    Raises:
        Refused: The registration is damaged, or another study's.
    """
    # A first look, which judges fewer seeds than the study has, decides no claim.
    if expansion.is_first_look or not any(records.values()):
        return []
    if Registration.load_for(expansion):
        return []
    return [
        "There is no registration of this study: nothing tells that its claims were made before its runs. "
        "`xceptlab study` writes registered.yaml before the first run; "
        "it was removed, or the study was never started."
    ]


def registration_warnings(expansion: Expansion, records: Records) -> list[str]:
    """Return warnings of edits after the registration, of runs from before it, and of seeds that
    were added after the verdict on the registered ones. There are none where the study has no
    registration.

    Args:
        expansion: The study.
        records: Records of all its runs, by (trial, seed).

    Raises:
        Refused: The registration is damaged, or another study's.
    """
    registration = Registration.load_for(expansion)
    if not registration:
        return []
    warnings = [
        f"Edited after its registration: {edit.rstrip('.')}."
        for edit in registration.edits(expansion)
    ]
    warnings += _of_older_runs(registration, records)
    if added := _added_by_hand(registration, records):
        seeds = named(added, "was", "were").capitalize()
        warnings.append(
            f"{seeds} added by hand after the verdict of the registered seeds: "
            "looking again makes false verdicts likelier than alpha; "
            "seeds: {start, step, max, stop: decided} accounts for it."
        )
    return warnings


def _of_older_runs(registration: Registration, records: Records) -> list[str]:
    """Return a warning, in a list of one, with the number of recorded runs that are older than the
    study's registration; an empty list where there are none.
    """
    older = [record for record in records.values() if record and _is_older(record, registration)]
    if not older:
        return []
    are = "is" if len(older) == 1 else "are"
    runs = counted(len(records), "run")
    return [
        f"{len(older)} of {runs} {are} older than the study's registration, so its claims may know them."
    ]


def _is_older(record: Record, registration: Registration) -> bool:
    """Whether a run began before the study was registered, so that its record does not name the
    registration. Records of older versions name none: of these, whether the run ended before.
    """
    # Records of older versions name no registrations, so that clocks are compared, which err.
    if record.registrations is None:
        return record.finished < registration.time
    return registration.digest not in record.registrations


def _added_by_hand(registration: Registration, records: Records) -> list[int]:
    """Return, sorted, the seeds that were not registered and with which a run that is done began
    after the runs of all registered seeds had ended. Empty while a run of a registered seed is not
    done, and where the study has no registered seed any more.
    """
    planned = registration.seeds
    registered = range(Seeds(**planned).max) if isinstance(planned, dict) else planned
    ends = []
    for (_, seed), record in records.items():
        if seed in registered:
            ends.append(record.finished if record else math.inf)
    if not ends:
        return []
    added = set()
    for (_, seed), record in records.items():
        if record and seed not in registered and record.started >= max(ends):
            added.add(seed)
    return sorted(added)
