"""From files and overrides to a configuration, and one line for whatever is wrong with them."""

import itertools
import json
import pickle
import re
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from xceptlab.config import options, strict_yaml
from xceptlab.config.field_errors import SYNONYMS, FieldError
from xceptlab.config.fields import keys
from xceptlab.config.layers import Origin, layer, resolve
from xceptlab.config.loading import Value, dump, layers_of, load_run, overrides
from xceptlab.config.schema import RunConfig
from xceptlab.errors import Refused
from xceptlab.study.plan import expand


@pytest.fixture
def file(tmp_path):
    """Write a file and return its path: ``file("train: {lr: 0.1}")``."""

    def write(text: str | bytes, name: str = "layer.yaml") -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def refusal(*args: str) -> str:
    """The message, which is one line."""
    with pytest.raises(ValueError) as error:
        load_run(args)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- layers --------------------------------------------------------------------------------------


def test_nothing_given_is_the_default():
    assert load_run().changed() == {}


@pytest.mark.parametrize("escape", [r"\U00110000", r"\UFFFFFFFF"])
def test_an_escape_that_is_no_character_is_one_line(tmp_path, escape):
    file = tmp_path / "config.yaml"
    file.write_text(f'runtime: {{arm: "{escape}"}}')
    for arguments in (["-c", str(file)], [f'--model.options.x="{escape}"']):
        with pytest.raises(Refused, match="an escape in it is no character of Unicode"):
            load_run(arguments)


def test_a_mapping_in_the_place_of_a_bounded_number_is_one_line(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("{question: '?', base: [], seeds: [0], arms: {one: {}}, alpha: {a: 1}}")
    with pytest.raises(
        Refused, match=r"alpha: \{a: 1\} is not allowed; it must be a finite number"
    ):
        expand(str(file))


@pytest.mark.parametrize("text", ["8", "null", "1e3", "[1]", " 8", '"8"', "deep"])
def test_an_option_that_python_gives_as_text_is_typed_so_that_it_reads_as_text(text):
    assert strict_yaml.value_of(Value("model.options.x", text).text) == text
    assert Value("model.options.x", "deep").text == "deep"


def test_files_layer_in_order_and_the_last_wins(file):
    a = file("train: {lr: 0.1, epochs: 3}\nseed: 4", "a.yaml")
    b = file("train: {lr: 0.2}\nmodel: {width: 0.5}", "b.yaml")
    both = load_run(["-c", a, "-c", b])
    assert (both.train.lr, both.train.epochs, both.model.width, both.seed) == (0.2, 3, 0.5, 4)
    assert load_run(["-c", b, "-c", a]).train.lr == 0.1


VALUES = {
    "seed": st.integers(0, 1000),
    "train.lr": st.floats(1e-6, 10),
    "train.epochs": st.integers(1, 1000),
    "train.nesterov": st.booleans(),
    "model.width": st.floats(0.1, 4),
    "model.residual": st.sampled_from(["all", "none"]),
    "model.fc": st.lists(st.integers(1, 4096), max_size=3),
    "runtime.arm": st.sampled_from(["wide", "010", "a b", "~"]),
}
"""Values of each type, which are possible beside each other."""
LAYER = st.fixed_dictionaries({}, optional=VALUES)
ARGUMENTS = st.lists(
    st.tuples(st.sampled_from(["-c FILE", "-c=FILE", "--config=FILE"]), LAYER)
    | st.tuples(st.sampled_from(["--KEY VALUE", "--KEY=VALUE"]), LAYER.filter(bool)),
    max_size=5,
)
"""Files and overrides in any order, as a user may write them, each with its values."""


def nested(values):
    """Values as a file has them: ``{"train.lr": 1}`` becomes ``{"train": {"lr": 1}}``."""
    found = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (found.setdefault(section, {}) if section else found)[name] = value
    return found


def command_line(arguments, folder):
    """The arguments of a command line, whose files are written into ``folder``."""
    args = []
    for number, (form, values) in enumerate(arguments):
        if "FILE" in form:
            file = folder / f"{number}.yaml"
            file.write_text(yaml.safe_dump(nested(values), sort_keys=False))
            args += form.replace("FILE", str(file)).split()
            continue
        for key, value in values.items():
            flag, separator, _ = re.split("([ =])", form.replace("KEY", key))
            text = value if isinstance(value, str) else json.dumps(value)
            args += [flag, text] if separator == " " else [f"{flag}={text}"]
    return args


def canonical(values):
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}


def value_of(run, key):
    section, _, name = key.rpartition(".")
    return getattr(getattr(run, section) if section else run, name)


@given(ARGUMENTS)
def test_of_files_and_overrides_the_last_wins_key_by_key(arguments):
    expected = {}
    for _, values in arguments:
        expected |= canonical(values)
    with TemporaryDirectory() as folder:
        run = load_run(command_line(arguments, Path(folder)))
    assert {key: value_of(run, key) for key in expected} == expected
    untouched = VALUES.keys() - expected.keys()
    assert {key: value_of(run, key) for key in untouched} == {
        key: value_of(RunConfig(), key) for key in untouched
    }


@given(LAYER, st.randoms(use_true_random=False))
def test_in_a_file_the_order_of_keys_has_no_effect_nor_whether_they_are_dotted(values, random):
    shuffled = random.sample(list(values.items()), len(values))
    origin = Origin("layer.yaml")
    assert resolve([layer(dict(shuffled), origin)]) == resolve([layer(nested(values), origin)])


@given(st.lists(LAYER, max_size=4), st.data())
def test_a_layer_above_one_that_it_equals_and_a_run_above_itself_change_nothing(several, data):
    layers = [layer(values, Origin(f"{number}.yaml")) for number, values in enumerate(several)]
    run = resolve(layers)
    twice = data.draw(st.integers(0, len(layers)))
    assert resolve([*layers[:twice], *layers[max(0, twice - 1) :]]) == run
    assert resolve([*layers, layer(run.to_dict(), Origin("config.yaml"))]) == run
    assert resolve([layer(yaml.safe_load(dump(run)), Origin("config.yaml"))]) == run


OPTIONS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(["depth", "width", "kernel"], st.integers(0, 9))
)


@given(st.lists(OPTIONS, max_size=5))
def test_an_option_of_a_family_replaces_that_option_alone_and_none_at_all_drop_all(layers):
    found, expected = {}, {}
    for given_options in layers:
        options.overlay(found, options.by_key(given_options) or {options.OPTIONS: {}})
        expected = {**expected, **given_options} if given_options else {}
    assert found.get(options.OPTIONS, {}) == expected


@pytest.mark.parametrize("number", ["1e-2", "0.01", "1.0e-2", ".01"])
def test_numbers_may_be_written_as_people_write_them(file, number):
    assert load_run(["--train.lr", number]).train.lr == 0.01
    assert load_run(["-c", file(f"train: {{lr: {number}}}")]).train.lr == 0.01


def test_a_whole_number_serves_as_a_decimal_one(file):
    lr = load_run(["-c", file("train: {lr: 1}")]).train.lr
    assert lr == 1.0
    assert isinstance(lr, float)


def test_overrides_are_pairs_in_their_order_however_they_are_written():
    args = [
        "-c",
        "a.yaml",
        "--train.lr",
        "-0.1",
        "--config=b=c.yaml",
        "--print_config",
        "-c=d.yaml",
        "--model.timm=",
        "--seed",
    ]
    assert overrides(args) == [
        ("config", "a.yaml"), ("train.lr", "-0.1"), ("config", "b=c.yaml"), ("print_config", None), ("config", "d.yaml"),
        ("model.timm", ""), ("seed", None),
    ]  # fmt: skip


@pytest.mark.parametrize("value", ["8", "none", 1e-05, True, None, ["8"], {"a": "1e3"}])
def test_a_value_from_python_reaches_the_configuration_as_it_is(value):
    (found,) = layers_of([Value("model.options.depth", value)])
    assert found.values == {"model.options.depth": value}


def test_text_that_is_typed_is_read_as_yaml_where_nobody_knows_the_type():
    (found,) = layers_of(["--model.options.depth", "8"])
    assert found.values == {"model.options.depth": 8}


def test_values_from_python_are_overrides_of_the_text_that_one_would_type():
    args = ["-c", "a.yaml", Value("train.lr", 0.5), Value("model.fc", [8]), Value("data.name", "a")]
    assert overrides(args) == [
        ("config", "a.yaml"), ("train.lr", "0.5"), ("model.fc", "[8]"), ("data.name", "a"),
    ]  # fmt: skip


def test_print_config_prints_yaml_that_reads_back(capsys, file):
    with pytest.raises(SystemExit) as stop:
        load_run(["--train.lr", "0.25", "--print_config", "--seed", "7"])
    assert stop.value.code in (0, None)
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["train"]["lr"] == 0.25
    assert load_run(["-c", file(text)]) == load_run(["--train.lr", "0.25", "--seed", "7"])


@pytest.mark.parametrize(
    "text",
    ["1e-3", "1e5", "-2.5E+3", ".5e1", "010", "12:30", "~", "yes", "0x1F", "2020-01-01", "#x", "é"],
)
def test_text_that_looks_like_another_value_is_printed_and_kept_so_that_it_reads_back(
    file, capsys, text
):
    run = load_run(["--runtime.arm", text])
    assert run.runtime.arm == text
    assert load_run(["-c", file(dump(run))]) == run
    with pytest.raises(SystemExit):
        load_run(["--runtime.arm", text, "--print_config"])
    assert load_run(["-c", file(capsys.readouterr().out)]) == run


@pytest.mark.parametrize(
    "wrong",
    [
        "train.lr=.nan",
        "train.lr=.inf",
        "train.lr=null",
        "model.width=0",
        "seed=-1",
        "data.crop=pad",
        "model.fc=[0]",
    ],
)
def test_print_config_refuses_what_train_refuses(capsys, wrong):
    assert refusal(f"--{wrong}", "--print_config") == refusal(f"--{wrong}")
    assert capsys.readouterr().out == ""


def test_a_run_of_an_earlier_version_is_read_as_what_it_is(file):
    """Its configuration has ``runtime.compile`` and ``runtime.deterministic``, which are science
    since.
    """
    plain = load_run(
        ["-c", file("{seed: 3, runtime: {workers: 2, compile: false, deterministic: true}}")]
    )
    assert plain == load_run(["--seed=3", "--runtime.workers=2"])
    other = load_run(
        ["-c", file("{train: {lr: 1e-5}, runtime: {compile: true, deterministic: false}}")]
    )
    assert other == load_run(
        ["--train.lr=1e-5", "--train.compile=true", "--train.deterministic=false"]
    )


# ---- whatever is wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--train.lrr", "0.1"], ["train.lrr", "no such key", "did you mean train.lr?"]),
        (["--model.residuals=none"], ["model.residuals", "did you mean model.residual?"]),
        (["--trian.epochs", "3"], ["trian.epochs", "did you mean train.epochs?"]),
        (
            ["--train.learning_rate", "1"],
            ["train.learning_rate", "no such key", "did you mean train.lr?"],
        ),
        (["--train.max_epochs", "1"], ["train.max_epochs", "did you mean train.epochs?"]),
        (["--data.bs", "1"], ["data.bs", "did you mean train.batch_size?"]),
        (["--model.lr", "1"], ["model.lr", "did you mean train.lr?"]),
        (["--workers", "1"], ["workers", "did you mean runtime.workers?"]),
        (
            ["--runtime.compile=true"],
            ["runtime.compile: there is no such key", "did you mean train.compile?"],
        ),
        (
            ["--runtime.deterministic=false"],
            ["runtime.deterministic", "did you mean train.deterministic?"],
        ),
        (["--bogus"], ["bogus", "xceptlab train --help explains the keys"]),
        (["--model", "none"], ["model", "'none'", "a mapping with keys of order"]),
        (["--model.segments", "few"], ["model.segments", "'few'", "a whole number or all"]),
        (["--model.fc", "4096"], ["model.fc: 4096 is", "a list (each a whole number)"]),
        (["--model.fc", "[64, x]"], ["model.fc: [64, 'x'] is", "a list (each a whole number)"]),
        (["--model.fc", "[64,"], ["model.fc: '[64,' is", "a list (each a whole number)"]),
        (["--train.lr", "fast"], ["train.lr", "'fast'", "a finite number"]),
        (["--train.epochs", "1.5"], ["train.epochs", "1.5", "a whole number"]),
        (["--train.epochs", "true"], ["train.epochs: true is", "a whole number"]),
        (["--data.flip", "maybe"], ["data.flip", "'maybe'", "true or false"]),
        (
            ["--model.order", "sideways"],
            ["model.order", "'sideways'", "one of depthwise_first, pointwise_first"],
        ),
        (
            ["--model.order", "null"],
            ["model.order: null is", "one of depthwise_first, pointwise_first"],
        ),
        (["--train.lr", "null"], ["train.lr: null is", "a finite number"]),
        (["--seed", "null"], ["seed: null is", "a whole number"]),
        (["--train.lr", ".nan"], ["train.lr", "nan", "finite"]),
        (["--train.lr", ".inf"], ["train.lr", "inf", "finite"]),
        (["--model.width", "0"], ["model.width", "0.0", "at least 0.016"]),
        (["--seed", "-1"], ["seed", "-1", "between 0 and"]),
        (["--train.lr"], ["--train.lr", "expected one argument"]),
        (["-c"], ["--config", "expected one argument"]),
    ],
)
def test_a_bad_override_is_named_with_its_value_and_what_is_allowed(args, words):
    message = refusal(*args)
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: {epoch: 3}", ["train.epoch", "did you mean train.epochs?"]),
        ("trian: {epochs: 3}", ["trian.epochs", "did you mean train.epochs?"]),
        ("train: {lr: fast}", ["train.lr", "'fast'", "a finite number"]),
        ("train: {epochs: 1.5}", ["train.epochs", "1.5", "a whole number"]),
        ("data: {root: 5}", ["data.root", "5", "text"]),
        ('data: {root: "a\\0b"}', ["data.root", "NUL"]),
        ("model: {order: sideways}", ["model.order", "'sideways'", "depthwise_first"]),
        ("model: {order: null}", ["model.order", "null", "depthwise_first"]),
        ("train: {lr: null}", ["train.lr", "null", "number"]),
        ("train: null", ["train", "null", "mapping"]),
        ("train: [1, 2]", ["train", "[1, 2]", "mapping"]),
        ("train: {epochs: 0}", ["train.epochs", "0", "at least 1"]),
        ("- 1\n- 2", []),
        ("just a sentence", []),
        ("", []),
        ("# only a comment\n", []),
        ("train: {lr: 0.1", ["line 1"]),
        ("train: {lr: 0.1}\n\tseed: 3", ["line 2"]),
        (b"\x00\x01\x02", []),
        (b"train: {lr: 0.1}  # \xff\xfe", []),
    ],
)
def test_a_bad_file_is_named_with_the_key_the_value_and_what_is_allowed(file, text, words):
    path = file(text)
    message = refusal("-c", path)
    assert [word for word in [path, *words] if word not in message] == []


LAUGHS = "\n".join(
    f"{b}: &{b} [{', '.join(9 * [f'*{a}'])}]" for a, b in itertools.pairwise("abcdefghijkl")
)
CHAIN = "\n".join(f"k{i + 1}: &k{i + 1} [*k{i}]" for i in range(2000))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: &a {lr: *a}", ["line 1: an alias stands in the value that it stands for"]),
        ("model: {fc: &a [1, *a]}", ["line 1: an alias stands in the value"]),
        ("a: &a [&b [*a]]", ["line 1: an alias stands in the value"]),
        (
            f"a: &a [1, 2]\n{LAUGHS}",
            ["it holds more than 10,000 values, those that aliases stand for included"],
        ),
        (f"k0: &k0 [1]\n{CHAIN}", ["more than 10,000 values"]),
        ("model: {fc: " + 3000 * "[" + 3000 * "]" + "}", ["nested too deeply"]),
        (3000 * "{a: " + "1" + 3000 * "}", ["nested too deeply"]),
    ],
    ids=["itself", "in a list", "in two steps", "laughs", "a chain", "lists", "mappings"],
)
def test_aliases_and_nesting_without_end_are_refused_at_once(file, text, words):
    path = file(text)
    started = time.monotonic()
    message = refusal("-c", path)
    assert [word for word in [path, *words] if word not in message] == []
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "value",
    [
        "!!int ",
        "!!bool maybe",
        "!!float x",
        "!!timestamp 1",
        "! 1",
        "!!set {a}",
        "!!str 1",
        "!mine 1",
    ],
)
def test_tags_are_refused_since_a_value_shows_what_it_is(file, value):
    for text in (
        f"train: {{epochs: {value}}}",
        f"{value}: 1" if value[-1] != " " else f"seed: {value}",
    ):
        path = file(f"# a comment\n{text}")
        assert f"{path}: line 2: a value has no tag here, such as !" in refusal("-c", path)
    assert refusal(f"--train.epochs={value}").startswith("train.epochs: a value has no tag here")
    assert load_run([f"--model.timm={value}"]).model.timm == value  # text is taken as it is


@pytest.mark.parametrize("key", ["train.lr", "train.epochs", "seed"])
@pytest.mark.parametrize("digits", [101, 400, 5000])
def test_a_number_of_very_many_digits_is_refused(file, key, digits):
    section, _, name = key.rpartition(".")
    line = f"{name}: {digits * '9'}"
    path = file(f"{section}: {{{line}}}" if section else line)
    assert refusal("-c", path) == f"{path}: line 1: a number of {digits} digits is too large"
    assert refusal(f"--{key}={digits * '9'}") == f"{key}: a number of {digits} digits is too large"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{? [1, 2] : 3}", "line 1: a key is a list; it must be text"),
        ("seed: 1\nmodel: {? {a: 1} : 3}", "line 2: a key is a mapping; it must be text"),
        ("? ", "line 1: a key is null; it must be text"),
        ("true:", "line 1: a key is true; it must be text"),
        ("3: x", "line 1: a key is 3; it must be text"),
        ("seed: 0b_", "line 1: 0b_ looks like a number and is none; text stands in quotes"),
    ],
)
def test_what_yaml_stumbles_over_is_refused_with_its_line(file, text, said):
    path = file(text)
    assert refusal("-c", path) == f"{path}: {said}"


@pytest.mark.parametrize("text", ["seed: 1\n# caf\xe9", "\xfeseed: 1"])
def test_a_file_in_another_encoding_is_refused_with_its_place(tmp_path, text):
    path = tmp_path / "layer.yaml"
    path.write_bytes(text.encode("latin-1"))
    line = text.count("\n") + 1
    assert (
        refusal("-c", str(path))
        == f"{path}: not UTF-8 text: byte 0x{max(text.encode('latin-1')):02x} in line {line}"
    )


def test_a_byte_order_mark_is_passed_over(tmp_path):
    path = tmp_path / "layer.yaml"
    path.write_bytes(b"\xef\xbb\xbfseed: 3")
    assert load_run(["-c", str(path)]).seed == 3


@pytest.mark.parametrize(
    "text",
    ["x" * 1000 + ": 1", "train: {" + "x" * 1000 + ": 1}", "seed: " + "x" * 5000, "a: 1\n" * 2],
)
def test_a_refusal_is_short_and_says_what_is_wrong(file, text):
    message = refusal("-c", file(text))
    assert len(message) < 500
    assert (
        message.endswith(("explains the keys", "must be a whole number", "stands there twice"))
        or "did you mean" in message
    )


def test_an_alias_in_its_place_is_fine(file):
    text = "model: {fc: &layers [64, 32]}\nlauncher: {options: []}\ndata: &d {name: digits, crop: none}\ntrain: {epochs: 3}"
    run = load_run(["-c", file(text)])
    assert run.model.fc == (64, 32)


@pytest.mark.parametrize("date", ["2026-01-31", "2026-13-45", "2026-01-31 12:00:00"])
def test_a_date_is_text(file, date):
    assert load_run(["-c", file(f"data: {{root: {date}}}")]).data.root == date


@pytest.mark.parametrize(
    ("key", "value"),
    [("train.lr", 0.1), ("train.epochs", 3), ("data.flip", False), ("model.fc", (64, 32))],
)
def test_text_in_the_place_of_another_value_is_read_as_that_in_a_file_as_on_the_command_line(
    file, key, value
):
    section, name = key.split(".")
    written = str(list(value) if isinstance(value, tuple) else value).lower()
    for args in (["-c", file(f"{section}: {{{name}: '{written}'}}")], [f"--{key}={written}"]):
        assert getattr(getattr(load_run(args), section), name) == value


SLIPS = [
    ("1_0", 10),
    ("-1_000", -1000),
    ("0x1_F", 31),
    ("0b1_1", 3),
    ("1_0.5", 10.5),
    ("1_0e2", 1000.0),
    ("1_", 1),
]


@pytest.mark.parametrize(("number", "value"), SLIPS)
def test_an_underscore_in_a_number_is_refused_as_a_slip(file, number, value):
    said = f"{number} would be read as {value}; write the number without _, or text in quotes"
    for text in (
        f"seed: {number}",
        f"model: {{fc: [{number}]}}",
        f"data: {{root: {number}}}",
        f"train: {{{number}: 1}}",
    ):
        path = file(f"# a comment\n{text}")
        assert refusal("-c", path) == f"{path}: line 2: {said}"
    for key in ("seed", "train.lr"):
        assert refusal(f"--{key}={number}") == f"{key}: {said}"
    assert load_run(["--runtime.outputs", number]).runtime.outputs == number
    assert load_run(["-c", file(f"runtime: {{outputs: '{number}'}}")]).runtime.outputs == number


@pytest.mark.parametrize("text", ["a_1", "1_a", "_1", "1e1_0"])
def test_an_underscore_in_what_is_no_number_is_text(file, text):
    assert load_run(["-c", file(f"data: {{root: {text}}}")]).data.root == text


NUMBERS = [
    ("010", 8),
    ("-017", 8),
    ("0_7", 8),
    ("00", 8),
    ("12:30", 60),
    ("1:2:3", 60),
    ("12:30.5", 60),
]


@pytest.mark.parametrize(("number", "base"), NUMBERS)
def test_a_number_that_only_yaml_reads_in_another_base_is_refused(file, number, base):
    said = f"{number} would be read in base {base}; write a decimal number, or text in quotes"
    for text in (
        f"seed: {number}",
        f"model: {{fc: [{number}]}}",
        f"train: {{lr: {number}}}",
        f"data: {{root: {number}}}",
    ):
        path = file(f"# a comment\n{text}")
        assert refusal("-c", path) == f"{path}: line 2: {said}"
    for key in ("seed", "train.lr", "train.epochs"):
        assert refusal(f"--{key}={number}") == f"{key}: {said}"
    assert refusal(f"--model.fc=[{number}]") == f"model.fc: {said}"


@pytest.mark.parametrize("number", [number for number, _ in NUMBERS])
def test_as_text_it_is_allowed(file, number):
    assert load_run(["--runtime.outputs", number]).runtime.outputs == number
    assert load_run(["-c", file(f"runtime: {{outputs: '{number}'}}")]).runtime.outputs == number


@pytest.mark.parametrize(
    ("number", "value"), [("10", 10), ("0", 0), ("+5", 5), ("0x1F", 31), ("0b11", 3)]
)
def test_other_numbers_are_what_they_are_elsewhere(file, number, value):
    assert (
        load_run(["--seed", number]).seed == load_run(["-c", file(f"seed: {number}")]).seed == value
    )


@pytest.mark.parametrize(("number", "value"), [("017.5", 17.5), ("0.5", 0.5), ("1e-2", 0.01)])
def test_other_decimals_too(file, number, value):
    assert (
        load_run(["--train.lr", number]).train.lr
        == load_run(["-c", file(f"train: {{lr: {number}}}")]).train.lr
        == value
    )


def test_the_bad_one_of_several_files_is_named(file):
    good, bad = file("train: {lr: 0.1}", "good.yaml"), file("train: {epoch: 3}", "bad.yaml")
    message = refusal("-c", good, "-c", bad, "--seed", "1")
    assert bad in message
    assert good not in message


@pytest.mark.parametrize("flag", ["-c=", "--config="])
def test_a_bad_file_is_named_also_when_given_with_an_equals_sign(file, flag):
    path = file("train: {epoch: 3}")
    assert path in refusal(flag + path)


def test_an_impossible_value_is_told_with_what_gave_it_and_what_makes_it_impossible(file):
    pad, photographs = (
        file("data: {crop: pad}", "pad.yaml"),
        file("data: {name: imagenet}", "photographs.yaml"),
    )
    allowed = "is not allowed; it must be one of none, resized for imagenet"
    assert refusal("-c", pad) == f"{pad}: data.crop: 'pad' {allowed}"
    assert (
        refusal("-c", pad, "-c", photographs)
        == f"{pad}: data.crop: 'pad' {allowed} (with data.name: 'imagenet' of {photographs})"
    )
    assert (
        refusal("-c", pad, "--data.name=imagenet")
        == f"{pad}: data.crop: 'pad' {allowed} (with --data.name 'imagenet')"
    )
    assert refusal("-c", photographs, "--data.crop=pad") == (
        f"data.crop: 'pad' {allowed} (with data.name: 'imagenet' of {photographs})"
    )
    assert refusal("--data.name=digits").startswith(
        "data.crop: 'resized', the default, is not allowed"
    )


def test_an_error_knows_its_key_value_what_is_allowed_and_what_gave_it(file):
    path = file("train: {epochs: 0}")
    with pytest.raises(FieldError) as error:
        load_run(["-c", path])
    found = pickle.loads(pickle.dumps(error.value))  # as it comes from another process
    assert (found.key, found.value, found.allowed, found.origin) == (
        "train.epochs",
        0,
        "at least 1",
        path,
    )
    assert str(found) == f"{path}: train.epochs: 0 is not allowed; it must be at least 1"


def test_a_key_may_be_dotted_in_a_file_but_not_stand_there_twice(file):
    assert load_run(["-c", file("train.lr: 0.3")]).train.lr == 0.3
    path = file("train: {lr: 0.1}\ntrain.lr: 0.2")
    assert refusal("-c", path) == f"{path}: the key train.lr stands there twice"
    path = file("runtime: {compile: true}\ntrain: {compile: false}")
    assert refusal("-c", path) == f"{path}: the key train.compile stands there twice"


@pytest.mark.parametrize(
    "text",
    [
        "nothing: {}",
        "nothing: 1",
        "train: {nothing: {}}",
        "config: x.yaml",
        "seed: {}",
        "seed.x: 1",
    ],
)
def test_what_is_no_key_is_refused_whatever_its_value(file, text):
    path = file(text)
    assert refusal("-c", path).startswith(f"{path}: ")


def test_every_file_is_read_once(file, monkeypatch):
    path, reads = file("train: {lr: 0.1}"), []
    read = strict_yaml.read
    monkeypatch.setattr(strict_yaml, "read", lambda name: reads.append(name) or read(name))
    load_run(["-c", path, "--seed=1"])
    with pytest.raises(ValueError):
        load_run(["-c", path, "--train.lr=fast"])
    assert reads == [path, path]


def test_a_value_is_judged_after_all_layers(file):
    """``crop: pad`` alone is impossible for the default data set, but not for CIFAR."""
    pad = file("data: {crop: pad}", "pad.yaml")
    cifar = file("data: {name: cifar10, size: 32}", "cifar.yaml")
    assert load_run(["-c", pad, "-c", cifar]).data.crop == "pad"


def test_a_missing_file_is_named(tmp_path):
    assert str(tmp_path / "none.yaml") in refusal("-c", str(tmp_path / "none.yaml"))


def test_a_folder_is_no_file(tmp_path):
    assert str(tmp_path) in refusal("-c", str(tmp_path))


def test_a_key_may_not_be_abbreviated():
    """An abbreviation would slip past everything that compares keys, such as a study's check for
    its own factors.
    """
    assert "train.epo" in refusal("--train.epo", "3")


def test_a_word_that_is_no_option_gets_no_silly_suggestion():
    message = refusal("extra")
    assert "extra" in message
    assert "did you mean" not in message


def test_what_fields_are_called_elsewhere_are_no_fields_here():
    """Else a suggestion would never be seen, or lead to nothing."""
    names = {key.rpartition(".")[2] for key in keys(RunConfig)}
    assert names.isdisjoint(SYNONYMS)
    assert names >= set(SYNONYMS.values())


@pytest.mark.parametrize("where", ["train: {{lr: {tag}}}", "{tag}"])
def test_yaml_executes_nothing(file, tmp_path, where):
    trap = tmp_path / "executed"
    path = file(where.format(tag=f"!!python/object/apply:os.system ['touch {trap}']"))
    assert path in refusal("-c", path)
    assert not trap.exists()
