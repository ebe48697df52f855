"""`xceptlab judge`: verdicts on scores that another tool made."""

import csv
from pathlib import Path

import pytest
import yaml

from made import CLAIM
from xceptlab.cli import main
from xceptlab.study.judging import judge
from xceptlab.study.score_files import read_table, scores_of
from xceptlab.study.score_tables import ScoreClaim

A = [97.4, 97.6, 97.2, 97.5, 97.3]
B = [96.0, 96.2, 96.1, 96.0, 96.2]


def wide(
    folder: Path, metric: str = "acc", b: list = B, arm: str = "arm", seed: str = "seed"
) -> Path:
    """A file with a column of the metric, as W&B exports one."""
    rows = [("a", i, value) for i, value in enumerate(A)] + [
        ("b", i, value) for i, value in enumerate(b)
    ]
    file = folder / "scores.csv"
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["Name", arm, seed, metric])
        writer.writerows([f"run-{i}", *row] for i, row in enumerate(rows))
    return file


def long(folder: Path) -> Path:
    """A file with a row per run and metric."""
    rows = [
        f"{arm},{i},{name},{value}"
        for arm, scores in (("a", A), ("b", B))
        for i, value in enumerate(scores)
        for name in ("f1", "acc")
    ]
    file = folder / "long.csv"
    file.write_text("\n".join(["arm,seed,metric,value", *rows, "c,0,f1,1"]))
    return file


def read_scores(
    file: Path, metric: str, arm: str = "arm", seed: str = "seed"
) -> dict[str, dict[int, float]]:
    return scores_of(read_table(file), str(file), metric, arm, seed)


def test_both_layouts_hold_the_same_scores(tmp_path):
    expected = {"a": dict(enumerate(A)), "b": dict(enumerate(B))}
    assert read_scores(wide(tmp_path), "acc") == expected
    assert read_scores(long(tmp_path), "acc") == expected
    assert (
        read_scores(wide(tmp_path, arm="group", seed="trial"), "acc", "group", "trial") == expected
    )


@pytest.mark.parametrize(
    "asked", [{"statistic": "mean"}, {"statistic": "median"}, {"pairing": "none"}]
)
def test_the_verdict_is_judges_own_and_has_a_report(tmp_path, capsys, asked):
    file, out = wide(tmp_path), tmp_path / "out"
    options = ["--contrast", "a", "b", "--metric", "acc", "--margin", "0.5"]
    options += [f"--{name}={value}" for name, value in asked.items()]
    assert main(["judge", str(file), *options, "--output", str(out)]) == 0
    claim = ScoreClaim(
        id="a superior b", contrast=("a", "b"), metric="acc", kind="superior", margin=0.5, **asked
    )
    (expected,) = judge([claim], [{"a": dict(enumerate(A)), "b": dict(enumerate(B))}], range(5))
    said = " ".join(capsys.readouterr().out.split())
    report = (out / "report.md").read_text()
    assert expected.outcome == "supported"
    assert expected.summary in said
    assert expected.summary in report
    assert "| 0 | 97.4000 | 96.0000 | +1.4000 |" in report
    assert (out / "differences.svg").read_text().startswith("<svg")


def test_with_calibrate_it_is_said_how_often_such_verdicts_are_wrong(tmp_path, capsys):
    claim = {
        "contrast": ["a", "b"],
        "metric": "acc",
        "kind": "superior",
        "margin": 0.5,
        "diverged": 10.0,
    }
    claims = [claim | {"id": "mean"}, claim | {"id": "median", "statistic": "median"}]
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"claims": claims}))
    file = wide(tmp_path, b=[*B[:4], ""])
    asked = [
        "judge",
        str(file),
        "--claims",
        str(tmp_path / "claims.yaml"),
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(asked) == 0
    without = capsys.readouterr().out
    report = (tmp_path / "out" / "report.md").read_text()
    assert "How often" not in without + report
    assert main([*asked, "--calibrate"]) == 0
    said = capsys.readouterr().out
    report = (tmp_path / "out" / "report.md").read_text()
    assert said.startswith(without.partition("Report:")[0])
    for text in (" ".join(said.split()), report):
        assert "How often such verdicts are wrong" in text
        assert (
            "mean: of 4,000 simulated studies like this one in which nothing is there to find, "
            in text
        )
        assert "Holm's correction is over all 2 claims" in text
        assert "Warning: Claim mean: with differences such as these " in text
    assert "failures as seen (a 0, b 1 of 5)" in report
    assert "| any of them | as seen | " in report


def test_a_lower_score_is_better_where_it_is_said(tmp_path, capsys):
    assert (
        main(
            [
                "judge",
                str(wide(tmp_path, "ppl")),
                "--contrast",
                "b",
                "a",
                "--metric",
                "ppl",
                "--lower-is-better",
            ]
        )
        == 0
    )
    assert "SUPPORTED" in capsys.readouterr().out


@pytest.mark.parametrize(
    "metric",
    [
        *("error", "test/top1_error", "RMSE", "val-ppl", "mse_val", "latency_ms", "loss_val"),
        *("testErr", "ErrorRate", "errorrate", "valerror", "testMSE", "RMSEVal", "valmae"),
        *("CrossEntropy", "logloss_mean", "mape", "miss_rate", "bits_per_dim", "runtime", "FLOPs"),
        *(
            "losses",
            "false positive rate",
            "bits_per_byte",
            "wall_clock",
            "minADE",
            "inferenceTime",
        ),
    ],
)
def test_whether_a_lower_score_is_the_better_one_has_to_be_said_of_names_for_errors(
    tmp_path, capsys, metric
):
    file = wide(tmp_path, metric)
    judging = ["judge", str(file), "--metric", metric, "--contrast", "b", "a"]
    assert main(judging) == 2
    assert (
        f"metric: whether a lower {metric} is the better one is not known; lower_is_better"
        in capsys.readouterr().err
    )
    assert main([*judging, "--lower-is-better"]) == 0
    assert "SUPPORTED" in capsys.readouterr().out
    assert main([*judging, "--no-lower-is-better"]) == 0
    assert "CONTRADICTED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("metric", "is_loss"),
    [
        *((name, True) for name in ("logLoss", "valLoss", "MSELoss", "CrossEntropyLoss", "Loss")),
        *(
            (name, False)
            for name in (
                "mAP",
                "nDCG",
                "f1Score",
                "valAcc",
                "AUROC",
                "kappa",
                "rank1",
                "uptime",
                "Top1",
            )
        ),
    ],
)
def test_a_loss_is_known_however_it_is_written_and_other_scores_are_better_when_higher(
    tmp_path, capsys, metric, is_loss
):
    file = wide(tmp_path, metric)
    assert main(["judge", str(file), "--metric", metric, "--contrast", "b", "a"]) == 0
    assert ("SUPPORTED" if is_loss else "CONTRADICTED") in capsys.readouterr().out


def test_a_metric_may_be_called_value_in_a_table_with_a_row_per_metric(tmp_path, capsys):
    rows = [f"{arm},{i},value,{90 + i + 5 * (arm == 'b')}" for arm in "ab" for i in range(3)]
    file = tmp_path / "long.csv"
    file.write_text("\n".join(["arm,seed,metric,value", *rows]))
    assert main(["judge", str(file), "--metric", "value", "--contrast", "b", "a"]) == 0
    assert "b - a is +5.0000 for every seed" in " ".join(capsys.readouterr().out.split())


def test_unpaired_arms_need_runs_that_are_numbered_alike(tmp_path, capsys):
    file = tmp_path / "uneven.csv"
    file.write_text(
        "arm,seed,acc\n"
        + "".join(
            f"{arm},{seed},{90 + seed}\n"
            for arm, first in (("a", 2), ("b", 0))
            for seed in range(first, first + 5)
        )
    )
    assert (
        main(["judge", str(file), "--metric", "acc", "--contrast", "a", "b", "--pairing", "none"])
        == 2
    )
    assert (
        "'a' has other seeds than 'b'; pairing: none compares as many runs of both arms, numbered alike, such as from 0"
        in capsys.readouterr().err
    )


def test_arms_whose_names_differ_in_blanks_alone_are_refused(tmp_path, capsys):
    file = wide(tmp_path)
    file.write_text(
        file.read_text() + "a ,99,1.0\n"
        if "Name" not in file.read_text()
        else file.read_text() + "x,a ,99,1.0\n"
    )
    assert main(["judge", str(file), "--metric", "acc", "--contrast", "a", "b"]) == 2
    assert "the arms 'a ' and 'a' differ in blanks alone" in capsys.readouterr().err


def test_an_estimate_of_nothing_is_not_called_better(tmp_path, capsys):
    file = tmp_path / "same.csv"
    file.write_text(
        "arm,seed,acc\n"
        + "".join(f"{arm},{seed},{90 + seed}\n" for arm in "ab" for seed in range(5))
    )
    assert (
        main(
            [
                "judge",
                str(file),
                "--metric",
                "acc",
                "--contrast",
                "a",
                "b",
                "--statistic",
                "median",
                "--margin",
                "1",
            ]
        )
        == 0
    )
    assert "Contradicted: a and b are 0.0000 apart in acc in the median" in " ".join(
        capsys.readouterr().out.split()
    )


def test_several_contrasts_and_a_claims_file_are_one_family(tmp_path, capsys):
    file = wide(tmp_path)
    assert (
        main(
            ["judge", str(file), "--metric", "acc", "--contrast", "a", "b", "--contrast", "b", "a"]
        )
        == 0
    )
    from_options = capsys.readouterr().out
    shared = {"metric": "acc", "kind": "superior", "margin": 0}
    claims = [shared | {"id": f"{a} superior {b}", "contrast": [a, b]} for a, b in ("ab", "ba")]
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"claims": claims}))
    assert main(["judge", str(file), "--claims", str(tmp_path / "claims.yaml")]) == 0
    assert capsys.readouterr().out == from_options
    assert "SUPPORTED" in from_options
    assert "CONTRADICTED" in from_options


def test_a_run_without_a_score_counts_as_the_claim_declares(tmp_path, capsys):
    file = wide(tmp_path, b=[*B[:4], ""])
    assert main(["judge", str(file), "--metric", "acc", "--contrast", "a", "b"]) == 2
    assert "arm 'b', seed 4 has no finite acc; `diverged` declares" in capsys.readouterr().err
    claim = CLAIM | {"metric": "acc", "diverged": 10.0}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"claims": [claim]}))
    out = tmp_path / "out"
    assert (
        main(["judge", str(file), "--claims", str(tmp_path / "claims.yaml"), "--output", str(out)])
        == 0
    )
    said = " ".join(capsys.readouterr().out.split())
    report = (out / "report.md").read_text()
    assert "INCONCLUSIVE" in said
    for text in (said, report):
        assert "Warning: 1 run has no finite score and counts as 10: b seed 4." in text
        assert "Warning: runs failed (b seed 4), and no test of a mean is sound there" in text
    assert "| 4 | 97.3000 | 10.0000 (no finite score) | +87.3000 |" in report
    assert "| 3 | 97.5000 | 96.0000 | +1.5000 |" in report


def test_columns_that_are_not_asked_for_may_have_the_same_name(tmp_path):
    (tmp_path / "scores.csv").write_text("arm,seed,acc,x,x,,\na,0,1,2,3,4,5\n")
    assert read_scores(tmp_path / "scores.csv", "acc") == {"a": {0: 1.0}}


def test_contrasts_are_judged_at_the_level_that_is_asked_for(tmp_path, capsys):
    arguments = ["judge", str(wide(tmp_path)), "--metric", "acc", "--contrast", "a", "b"]
    for alpha, level in (([], "90%"), (["--alpha", "0.01"], "98%")):
        assert main([*arguments, *alpha]) == 0
        assert f"({level} interval" in " ".join(capsys.readouterr().out.split())


def test_of_a_loss_the_lower_one_is_better_unless_it_is_said_otherwise(tmp_path, capsys):
    file = wide(tmp_path, "test/loss", b=[2 * value for value in A])
    asked = ["judge", str(file), "--metric", "test/loss", "--contrast", "a", "b"]
    assert main(asked) == 0
    assert "SUPPORTED" in capsys.readouterr().out
    assert main([*asked, "--no-lower-is-better"]) == 0
    assert "CONTRADICTED" in capsys.readouterr().out


def test_a_metric_that_is_no_text_is_one_line(tmp_path, capsys):
    claim = {"id": "c", "contrast": ["a", "b"], "metric": 5, "kind": "superior", "margin": 0.5}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"claims": [claim]}))
    assert main(["judge", str(wide(tmp_path)), "--claims", str(tmp_path / "claims.yaml")]) == 2
    assert "claim 'c': metric: 5 is not allowed; it must be text, in quotes" in (
        capsys.readouterr().err
    )


def test_what_a_claims_file_says_is_not_said_on_the_command_line_too(tmp_path, capsys):
    claim = {"id": "c", "contrast": ["a", "b"], "metric": "acc", "kind": "superior"}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"claims": [claim]}))
    assert (
        main(
            [
                "judge",
                str(wide(tmp_path)),
                "--claims",
                str(tmp_path / "claims.yaml"),
                "--margin",
                "5",
            ]
        )
        == 2
    )
    assert "--margin: not allowed with --claims" in capsys.readouterr().err


def test_a_file_that_is_no_text_is_named(tmp_path, capsys):
    (tmp_path / "scores.csv").write_bytes(b"arm,seed,acc\n\xff,0,1\n")
    assert main(["judge", str(tmp_path / "scores.csv"), "--contrast", "a", "b"]) == 2
    assert "scores.csv: not UTF-8 text: byte 0xff in line 2" in capsys.readouterr().err


def test_a_seed_that_one_arm_lacks_leaves_a_claim_incomplete(tmp_path, capsys):
    assert (
        main(["judge", str(wide(tmp_path, b=B[:4])), "--metric", "acc", "--contrast", "a", "b"])
        == 0
    )
    assert "seed 4 is not trained in both arms" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("", [], "has no header; its first line must be one, with a row per run below"),
        ("arm,seed,acc\n", [], "holds no row of scores, only a header"),
        ("arm,seed,acc,acc\na,0,1,2\n", [], "the column 'acc' stands there 2 times"),
        ("arm,seed,seed,acc\na,0,1,2\n", [], "the column 'seed' stands there 2 times"),
        ("arm,seed,acc\na,0,92_0\n", [], "row 2: acc '92_0' is no number"),
        ("arm,seed,acc\na,0_1,92\n", [], "row 2: seed '0_1' is no whole number"),
        (
            "arm;seed;acc\na;0;1,5\n",
            [],
            "there are arm;seed;acc; the columns must be separated by commas, not by semicolons",
        ),
        ("arm\tseed\tacc\na\t0\t1\n", [], "not by tabs"),
        ("arm,seed,acc\n a,0,1\nb,0,1\n", [], "there is no arm 'a'; there are ' a', b"),
        (
            "arm,seed,acc\na,0,1\n",
            ["--metric", "seed"],
            "'seed' is no metric; it is the column of the seeds",
        ),
        (
            "arm,seed,acc\na,0,1\n",
            ["--metric", "arm"],
            "'arm' is no metric; it is the column of the arms",
        ),
        (
            "arm,seed,acc\na,0,1\n",
            ["--margin", "1_0"],
            "argument --margin: invalid number value: '1_0'",
        ),
        (
            "arm,seed,acc\na,0,1\n",
            ["--alpha", "0.7"],
            "alpha: 0.7 is not allowed; it must be at least 1e-06 and below 0.5",
        ),
        ("arm,seed\na,0\n", [], "there is no column 'acc'; there are arm, seed"),
        ("arm,seed,acc\na,x,1\n", [], "row 2: seed 'x' is no whole number"),
        ("arm,seed,acc\na\n", [], "row 2 is not whole; it must have 3 columns"),
        ("arm,seed,acc\na,0\n", [], "row 2 is not whole"),
        ("arm,seed,acc\na,0,1,2\n", [], "row 2 is not whole"),
        ("arm,seed,acc\na,0,high\n", [], "row 2: acc 'high' is no number"),
        ("arm,seed,acc\na,0,1\na,0,2\n", [], "row 3: arm 'a', seed 0 stands there twice"),
        ("arm,seed,acc\na,0,1\n", [], "claim 'a superior b': there is no arm 'b'; there are a"),
        ("arm,seed,metric,value\na,0,f1,1\n", [], "there is no row of the metric 'acc'"),
        (
            "arm,seed,metric,value,acc\na,0,acc,1,2\n",
            [],
            "has the columns metric and value, and a column 'acc', too",
        ),
        (
            "arm,seed,metric,metric,value\na,0,acc,loss,1\n",
            [],
            "the column 'metric' stands there 2 times",
        ),
        ("arm,seed,acc\n\n\na,0,high\n", [], "row 4: acc 'high' is no number"),
        ("\narm,seed,acc\na,0,1\n", [], "has no header; its first line must be one"),
        (
            "arm,seed,acc\na,0,1\n",
            ["--seed-column", "arm"],
            "'arm' cannot be the column of both the arms and the seeds",
        ),
        (
            "arm,seed,acc\na,0,1\n",
            ["--margin", "-1"],
            "margin: -1.0 is not allowed; it must be 0 or more",
        ),
        ("arm,seed,acc\na,0,1\n", ["--claims", "x.yaml"], "either --contrast A B or --claims FILE"),
        ("arm,seed,acc\na,0,1\n", ["--train.lr", "1"], "--train.lr: there is no run to configure"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, capsys, text, options, said):
    file = tmp_path / "scores.csv"
    file.write_text(text)
    assert main(["judge", str(file), "--contrast", "a", "b", "--metric", "acc", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize("key", [{"failed": 1.0}, {"effect": {"x": [1, 2]}, "contrast": None}])
def test_what_needs_a_study_is_refused(tmp_path, capsys, key):
    claim = {
        "id": "c",
        "contrast": ["a", "b"],
        "metric": "acc",
        "kind": "superior",
        "margin": 0.5,
    } | key
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"claims": [claim]}))
    assert main(["judge", str(wide(tmp_path)), "--claims", str(tmp_path / "claims.yaml")]) == 2
    assert "left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("metric", "scale", "margin", "warned"),
    [
        ("acc", 0.01, 0.5, True),
        ("acc", 0.01, 0.005, False),
        ("kappa", 1, 5, True),
        ("acc", 1, 0.5, False),
    ],
)
def test_a_margin_as_large_as_the_whole_range_of_scores_is_remarked_on(
    tmp_path, capsys, metric, scale, margin, warned
):
    file = wide(tmp_path, metric, b=B)
    lines = [line.rpartition(",") for line in file.read_text().splitlines()[1:]]
    scaled = [f"{before},{scale * float(score):.6f}" for before, _, score in lines]
    file.write_text("\n".join([f"Name,arm,seed,{metric}", *scaled]))
    assert (
        main(
            [
                "judge",
                str(file),
                "--contrast",
                "a",
                "b",
                "--metric",
                metric,
                "--margin",
                str(margin),
            ]
        )
        == 0
    )
    said = " ".join(capsys.readouterr().out.split())
    low, high = scale * min(B), scale * max(A)
    expected = f"Warning: the margin of {margin:g} is as large as the whole range of the scores, {low:g} to {high:g}; it must be"
    assert (expected in said) == warned
    assert ("Warning" in said) == warned


def test_a_claim_is_not_made_twice(tmp_path, capsys):
    claim = {"contrast": ["a", "b"], "metric": "acc", "kind": "superior", "margin": 0.5}
    (tmp_path / "claims.yaml").write_text(
        yaml.safe_dump({"claims": [claim | {"id": "x"}, claim | {"id": "y"}]})
    )
    assert main(["judge", str(wide(tmp_path)), "--claims", str(tmp_path / "claims.yaml")]) == 2
    assert "claim 'y': is the same as the claim 'x'; remove one of them" in capsys.readouterr().err


def test_equivalence_is_one_claim_in_either_direction_and_superiority_two(tmp_path, capsys):
    claims = [
        {"id": "x", "contrast": ["a", "b"], "metric": "acc", "margin": 0.5},
        {"id": "y", "contrast": ["b", "a"], "metric": "acc", "margin": 0.5},
    ]
    for kind, code in (("superior", 0), ("equivalent", 2)):
        written = {"claims": [claim | {"kind": kind} for claim in claims]}
        (tmp_path / "claims.yaml").write_text(yaml.safe_dump(written))
        judged = ["judge", str(wide(tmp_path)), "--claims", str(tmp_path / "claims.yaml")]
        assert main(judged) == code
    assert "claim 'y': is the same as the claim 'x'" in capsys.readouterr().err


def test_a_seed_that_pandas_wrote_with_a_decimal_point_is_a_whole_number(tmp_path, capsys):
    rows = [f"{arm},{seed}.0,{90 + seed + (arm == 'a')}" for arm in "ab" for seed in range(3)]
    (tmp_path / "scores.csv").write_text("\n".join(["arm,seed,acc", *rows]))
    assert (
        main(["judge", str(tmp_path / "scores.csv"), "--contrast", "a", "b", "--metric", "acc"])
        == 0
    )
    assert "a - b is +1.0000 for every seed" in " ".join(capsys.readouterr().out.split())
