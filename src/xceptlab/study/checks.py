"""Checks of a study before its first run: is it controlled, and can its claims be judged as they
are declared?
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from xceptlab import register
from xceptlab.config import options
from xceptlab.config.field_errors import shown
from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused
from xceptlab.runs.metrics import ACCURACY, SPLITS, metric_of, names_on, split_of, without_split
from xceptlab.study import signs
from xceptlab.study.claims import Claim
from xceptlab.study.contrasts import arms_of
from xceptlab.study.definition import Seeds, Study
from xceptlab.study.estimands import Median
from xceptlab.study.expansion import Expansion
from xceptlab.study.images import FILES


def check(expansion: Expansion, file: Path) -> None:
    """Refuse a study whose comparison is not controlled, whose claims cannot be judged, or whose
    keys cannot be tuned as it says.

    In a first look, which has the study's first seeds only (``--seeds``), the number of seeds is
    not checked.

    Args:
        expansion: The study.
        file: The study file, which the error names.

    Raises:
        Refused: One line: which arm, claim or key, and what is allowed.
    """
    _check_control(expansion, file)
    _check_metrics(expansion, file)
    _check_tuning(expansion, file)
    _check_scope(expansion.study, file)
    # A first look may have too few seeds: its verdicts are not the study's.
    if not expansion.is_first_look:
        _check_number_of_seeds(expansion.study, file)


def _check_control(expansion: Expansion, file: Path) -> None:
    """Refuse an arm that differs from the baseline in keys that neither of the two declares, an arm
    other than the baseline that declares ``model.width`` although its ``model.match`` chooses the
    width, and two arms that differ in nothing that can change a result (docs/control.md).
    """
    cells = expansion.study.cells()
    baseline = next(iter(cells))
    for arm, config in expansion.arms.items():
        if arm != baseline and config.model.match != "none" and "model.width" in cells[arm]:
            raise Refused(
                f"{file}: arm {arm!r} declares model.width, which model.match: {config.model.match} chooses; "
                "leave out one of the two"
            )
        declared = {*cells[arm], *cells[baseline]}
        more = [key for key in expansion.differences(arm) if not options.is_declared(key, declared)]
        if more:
            raise Refused(
                f"{file}: arm {arm!r} differs from {baseline!r} in {', '.join(sorted(more))}, which it does not declare"
            )
    if equal := _equal_runs(expansion.arms):
        first, second = equal
        raise Refused(
            f"{file}: the arms {first!r} and {second!r} are the same science; an arm must differ"
        )


def _equal_runs(configs: Mapping[str, RunConfig]) -> tuple[str, str] | None:
    """Return the names of the first two configurations that are the same run; None where they all
    differ in something that can change a result.
    """
    name_of: dict[str, str] = {}
    for name, config in configs.items():
        if config.run_id in name_of:
            return name_of[config.run_id], name
        name_of[config.run_id] = name
    return None


def _check_metrics(expansion: Expansion, file: Path) -> None:
    """Refuse a claim on a metric that one of its arms does not measure, that cannot tell networks
    apart, or in which a diverged run would have no score.
    """
    for claim in expansion.study.claims:
        for arm in arms_of(claim, expansion.study):
            if fault := _metric_fault(claim, arm, expansion.arms[arm]):
                raise Refused(f"{file}: claim {claim.id!r}: {fault}")


def _metric_fault(claim: Claim, arm: str, config: RunConfig) -> str:
    """Return why a claim cannot be judged on its metric in an arm; empty where it can."""
    if split_of(claim.metric) == "val" and not config.data.has_validation_images:
        return f"metric: {claim.metric} needs data.validation, which is 0 in arm {arm!r}"
    if not_measured := _not_measured(claim.metric, SPLITS, config):
        return f"metric: {not_measured}"
    classes = config.data.classes
    if claim.diverged is None and math.isnan(claim.measure.guessing(classes)):
        return f"diverged: is missing; nothing says what guessing scores in {claim.metric}"
    if always := _always_the_same(claim.metric, classes):
        return f"metric: {always}, as in arm {arm!r}; claim {ACCURACY}"
    return ""


def _not_measured(name: str, splits: Sequence[str], config: RunConfig) -> str:
    """Return a clause that says that a name, such as ``test/top1``, is none of the metrics that a
    run measures on these splits, and which names are; empty where it is one of them.
    """
    measured = [one for split in splits for one in names_on(split, config.train.metrics)]
    if name in measured:
        return ""
    metric = without_split(name)
    is_registered = register.loaded("metric", metric) is not None
    is_left_out = is_registered and metric not in config.train.metrics
    hint = f"; train.metrics has to name {metric}, too" if is_left_out else ""
    return f"{shown(name)} is not allowed; it must be one of {', '.join(measured)}{hint}"


def _always_the_same(name: str, classes: int) -> str:
    """Return a clause on a metric that is the same for every network of so few classes; empty where
    the metric tells networks apart.

    Top-5 accuracy with 5 classes, for example, is always 100%.
    """
    metric = metric_of(name)
    if classes > metric.more_classes_than:
        return ""
    return f"{name} is always {metric.guessing(classes):g}{metric.unit} with {classes} classes"


def _check_tuning(expansion: Expansion, file: Path) -> None:
    """Refuse a tuned value that is not allowed, and two trials, which are arms at a tuned value,
    that are the same run. Refuse an arm that does not measure the metric ``tune.select``, has no
    validation images, or has so few classes that the metric is the same for every network. A study
    that tunes nothing passes.
    """
    tune = expansion.study.tune
    if tune is None:
        return
    try:
        trials = expansion.trials
    except Refused as error:
        raise Refused(f"{file}: tune.keys: {error}") from None
    if equal := _equal_runs({name: trial.config for name, trial in trials.items()}):
        first, second = equal
        raise Refused(f"{file}: tune.keys: {first} and {second} are the same science")
    for arm, config in expansion.arms.items():
        if not_measured := _not_measured(tune.select, ["val"], config):
            raise Refused(f"{file}: tune.select: {not_measured}")
        if not config.data.has_validation_images:
            raise Refused(
                f"{file}: tune.select: {tune.select} needs data.validation, which is 0 in arm {arm!r}"
            )
        if always := _always_the_same(tune.select, config.data.classes):
            raise Refused(f"{file}: tune.select: {always}; select {ACCURACY}")


def _check_scope(study: Study, file: Path) -> None:
    """Refuse ``scope: images`` where seeds are added until the claims are decided, for a claim on a
    median, and for one in any metric but the built-in ones on the test split.
    """
    if study.scope != "images":
        return
    if isinstance(study.seeds, Seeds):
        raise Refused(
            f"{file}: scope: images needs a list of seeds; seeds until decided are judged on this test set only"
        )
    for claim in study.claims:
        if claim.statistic == "median":
            raise Refused(
                f"{file}: claim {claim.id!r}: statistic: with scope: images it must be mean, not median"
            )
        if claim.metric not in FILES:
            allowed = f"with scope: images it must be a built-in metric of test images, one of {', '.join(FILES)}"
            raise Refused(
                f"{file}: claim {claim.id!r}: metric: {claim.metric} is not allowed; {allowed}"
            )


def _check_number_of_seeds(study: Study, file: Path) -> None:
    """Refuse a study that has too few seeds for a claim on a median: even if the differences of all
    seeds spoke for the claim, its p-value would be above Bonferroni's level, alpha divided by the
    number of claims.
    """
    seeds = study.seeds
    max_seeds = seeds.max if isinstance(seeds, Seeds) else len(seeds)
    for claim in study.claims:
        if claim.statistic != "median":
            continue
        level = study.alpha / len(study.claims)
        smallest_p = 0.5**max_seeds
        if smallest_p > Median(claim, seeds).nominal(level):
            needed = _seeds_of_a_median(level, len(study.claims) - 1, max_seeds)
            raise Refused(f"{file}: claim {claim.id!r}: statistic: {needed}")


def _seeds_of_a_median(level: float, other_claims: int, max_seeds: int) -> str:
    """Return a clause that says how many seeds a claim on a median needs and, if there are any up
    to 24, with which numbers of seeds the last one is not wasted, since the sign test needs no more
    wins than with one seed fewer.

    Args:
        level: The level of the claim's test, Bonferroni's over all claims.
        other_claims: The number of the study's other claims.
        max_seeds: The number of seeds that the study has at most, which is too small.
    """
    beside = ""
    if other_claims == 1:
        beside = " beside 1 other claim"
    elif other_claims:
        beside = f" beside {other_claims} other claims"
    needed = f"a median needs {signs.fewest(level)} seeds or more{beside}, not {max_seeds}"
    good = signs.good_sizes(level, 24)
    return f"{needed}; with {', '.join(map(str, good))} none is wasted" if good else needed
