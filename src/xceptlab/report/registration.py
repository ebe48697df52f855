"""Warnings on when the claims were made: no registration, edits and runs from before it, and seeds
added after the verdict.
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
    """Warn where runs were made and no registration proves that the claims were made before them."""
    if not any(records.values()) or Registration.load_for(expansion):
        return []
    return [
        "There is no registration of this study: nothing tells that its claims were made before its runs. "
        "`xceptlab study` writes registered.yaml before the first run; "
        "it was removed, or the study was never started."
    ]


def registration_warnings(expansion: Expansion, records: Records) -> list[str]:
    """Warn of edits after the registration, of runs from before it, and of seeds added after the
    verdict.
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
    """Warn of runs that began before the study was registered."""
    older = [record for record in records.values() if record and _is_older(record, registration)]
    if not older:
        return []
    are = "is" if len(older) == 1 else "are"
    runs = counted(len(records), "run")
    return [
        f"{len(older)} of {runs} {are} older than the study's registration, so its claims may know them."
    ]


def _is_older(record: Record, registration: Registration) -> bool:
    """Whether a run began before the study was registered; only records of older versions are
    compared by clocks, which err.
    """
    if record.registrations is None:
        return record.finished < registration.time
    return registration.digest not in record.registrations


def _added_by_hand(registration: Registration, records: Records) -> list[int]:
    """Seeds that were not registered and whose runs began when those of all registered seeds had
    ended, in order.
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
