"""The registry of components from outside: activations, model families, metrics, data sets,
optimizers, schedules, callbacks.

A module of yours registers them under a name, with a version, and a configuration names the module:

    # mine.py
    import xceptlab

    @xceptlab.register.activation("squash", version=1)
    def squash():
        return Squash()

    # mine.yaml
    extensions: [mine.py]
    model: {intermediate: squash}

``docs/extending.md`` shows each. Nothing but a configuration's, a study's or a command's
``extensions``, and packages that are installed with an entry point in the group ``xceptlab``, is
ever executed; a run's folder never names code to be run.
"""

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from xceptlab.errors import Refused

Kind = Literal["activation", "model", "metric", "data", "optimizer", "schedule", "callback"]
F = TypeVar("F", bound=Callable[..., Any])

RESERVED_METRICS = ("top1", "top5", "loss", "images", "correct")
"""Names that no registered metric may have, because the sums of an evaluation or the files of its
values for each image have these names already.
"""
ERRORS_OF_DEVICES = ("OutOfMemoryError", "AcceleratorError")
"""Names of torch's errors that a device raises, whatever code runs on it."""
ENTRY_POINTS = "xceptlab"
"""The group of entry points by which an installed package offers a module that registers
components.
"""
INSTALLED = "entry points of installed packages"
"""Key of ``_loaded`` that stands for the modules of all installed packages together."""


@dataclass(frozen=True)
class Source:
    """A file of code, as it was when it registered a component."""

    path: Path
    digest: str
    """SHA-256 of the file's content, in hexadecimal."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A component that was registered under a name."""

    kind: Kind
    name: str
    version: int
    make: Callable[..., Any]
    """The function that was registered."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the registration, such as a metric's unit or a data set's number of
    classes.
    """
    source: "Source | None" = None
    """The file that registered the component; None where there is none, as in a notebook's cell."""

    @property
    def identity(self) -> str:
        """Kind and name, such as ``activation squash``: the key under which a run's configuration
        holds the component's version.
        """
        return f"{self.kind} {self.name}"

    def call(self, *arguments: Any) -> Any:
        """Call the registered function and return what it gives.

        Raises:
            Refused: The function raises an error; the message names the error and the line. A
                ``Refused`` of the function's own is passed on as it is.
            OSError, MemoryError: The function raises this one, which is passed on as it is. So are
                torch's errors about a GPU's memory and kernels, since a kernel that fails may have
                been started by other code.
        """
        try:
            return self.make(*arguments)
        except (Refused, OSError, MemoryError):
            raise
        except Exception as error:
            if type(error).__name__ in ERRORS_OF_DEVICES or str(error).startswith("CUDA error"):
                raise
            raise self.failure(error) from error

    def failure(self, error: BaseException) -> Refused:
        """Return the error that tells the user that the component's code has raised ``error``. Its
        message names the component, the type and the message of ``error`` and, where they are
        known, the component's file and the line in it.
        """
        path = self.source.path if self.source else None
        place = f"{path}: {_line(error, path)}" if path else ""
        reason = " ".join(str(error).split())
        return Refused(f"{self.kind} {self.name!r}: {place}{type(error).__name__}: {reason}")

    def raised(self, error: BaseException) -> bool:
        """Whether an error was raised by code in the component's file, or by what that has called;
        False for a component that has no file.
        """
        return bool(self.source and _line(error, self.source.path))

    def refusal(self, given: object, allowed: str) -> Refused:
        """Return the error for a registered function that gave something else than it must.

        Args:
            given: What the function gave.
            allowed: What it must give, in words for the message.
        """
        kind = "None" if given is None else f"a value of type {type(given).__name__}"
        return Refused(f"{self.kind} {self.name!r}: gives {kind}; it must give {allowed}")


_entries: dict[tuple[str, str], Entry] = {}
"""The components that are registered in this process, by (kind, name)."""


class Loaded(NamedTuple):
    """A module that this process has loaded."""

    identities: frozenset[str] = frozenset()
    """The identities of the components that it registered then, such as ``activation squash``."""
    content: bytes = b""
    """What its file held then; empty for a module that is given by its import name."""


_loaded: dict[str, Loaded] = {}
"""Modules that this process has loaded, by their absolute path or import name; an entry under
``INSTALLED`` says that those of installed packages are loaded.
"""
CHANGED = "has changed since this process loaded it; start a new process"
"""What the error says of a file that was changed after this process had loaded it, so that the
process still has the file's former functions.
"""
# ---- for modules of yours ------------------------------------------------------------------------


def activation(name: str, *, version: int) -> Callable[[F], F]:
    """Return a decorator that registers an activation, for ``model.intermediate``: a function
    without arguments that makes a new ``nn.Module`` with each call.

    Args:
        name: The activation's name.
        version: A whole number from 1 on, to be increased whenever the code changes what a run
            computes.

    Raises:
        Refused: The name or the version is not allowed or, when the function is registered, another
            one has the name.
    """
    return _registering("activation", name, version)


def model(name: str, *, version: int, options: type | None = None) -> Callable[[F], F]:
    """Return a decorator that registers a model family, for ``model.family``: a function that
    builds a new ``nn.Module`` from images (N, 3, H, W) to logits (N, classes).

    It is called with ``(options, classes)``. Initial weights are drawn afterwards, each module's by
    the seed and its name, so that two arms start equal in every module that they share.

    Args:
        name: The family's name.
        version: A whole number from 1 on, to be increased whenever the code changes what a run
            computes.
        options: A frozen dataclass whose fields, all with defaults, are what ``model.options`` may
            hold. With None there are no options, and the function gets None.

    Raises:
        Refused: The options are no dataclass, or one with a field that lacks a default or whose
            type is text; or the name or the version is not allowed or, when the function is
            registered, another one has the name.
    """
    if options is not None:
        _check_options(options, f"register.model({name!r})")
    return _registering("model", name, version, options=options)


def _check_options(options: type, place: str) -> None:
    """Check that the options of a model family are a dataclass whose fields all have a default, and
    a type that is not text (as ``from __future__ import annotations`` makes it).

    Raises:
        Refused: They are not; the message begins with ``place``.
    """
    if not (isinstance(options, type) and is_dataclass(options)):
        raise Refused(f"{place}: options must be a dataclass")
    for f in fields(options):
        if f.default is MISSING and f.default_factory is MISSING:
            raise Refused(f"{place}: the option {f.name} needs a default")
        if isinstance(f.type, str):
            raise Refused(
                f"{place}: the type of the option {f.name} is text; leave out `from __future__ import annotations`"
            )


def metric(
    name: str,
    *,
    version: int,
    unit: str = "",
    lower_is_better: bool = False,
    decimals: int = 4,
    guessing: Callable[[int], float] | None = None,
) -> Callable[[F], F]:
    """Return a decorator that registers a metric, for ``train.metrics``: a function of logits
    (B, classes) and labels (B,) to one value per image (B,).

    An evaluation reports the mean over all images, as ``test/NAME`` and ``val/NAME``.

    Args:
        name: The metric's name.
        version: A whole number from 1 on, to be increased whenever the code changes the values.
        unit: Unit of the values. ``%`` says that the function gives shares of 1, which are reported
            in percent; empty for values without a unit.
        lower_is_better: Whether lower values are better, so that a claim that arm a is better than
            arm b is about b - a.
        decimals: Number of decimals with which a value is shown.
        guessing: Function from the number of classes to the score of uniform guessing, in percent
            where the unit is ``%``. A diverged run is given this score; with None, claims on the
            metric must declare ``diverged``.

    Raises:
        Refused: The name is reserved, the name or the version is not allowed, or the unit is ``%``
            and ``guessing`` gives a share of 1 in place of percent; or, when the function is
            registered, another one has the name.
    """
    if name in RESERVED_METRICS:
        raise Refused(
            f"register.metric({name!r}): every evaluation has {', '.join(RESERVED_METRICS)}; give it another name"
        )
    if unit == "%" and guessing and 0 < guessing(2) <= 1:
        raise Refused(
            f"register.metric({name!r}): guessing gives {guessing(2):g} with 2 classes; it must be in percent, as scores are"
        )
    about = {
        "unit": unit,
        "lower_is_better": lower_is_better,
        "decimals": decimals,
        "guessing": guessing,
    }
    return _registering("metric", name, version, **about)


def data(
    name: str, *, version: int, classes: int, images: tuple[int, int] = (0, 0)
) -> Callable[[F], F]:
    """Return a decorator that registers a data set of small images, for ``data.name``: a function
    of (root, size) that gives its training and test images.

    ``root`` is the ``Path`` of ``data.root``, ``size`` is ``data.size``. The function returns two
    pairs of arrays, for training and for testing: images (n, size, size, 3) of uint8 and labels
    (n,), whole numbers from 0 to ``classes`` - 1.

    Args:
        name: The data set's name.
        version: A whole number from 1 on, to be increased whenever the code changes the images.
        classes: Number of classes.
        images: Number of training and of test images, with which those of the function are
            compared; 0 where it is not known beforehand.

    Raises:
        Refused: The name or the version is not allowed or, when the function is registered, another
            one has the name.
    """
    return _registering("data", name, version, classes=classes, images=images)


def optimizer(name: str, *, version: int) -> Callable[[F], F]:
    """Return a decorator that registers an optimizer, for ``train.optimizer``: a function of
    (parameter groups, ``TrainConfig``) that makes a ``torch.optim.Optimizer``.

    Each group has its ``weight_decay`` already; the learning rate before the schedule is
    ``train.lr``.

    Args:
        name: The optimizer's name.
        version: A whole number from 1 on, to be increased whenever the code changes what a run
            computes.

    Raises:
        Refused: The name or the version is not allowed or, when the function is registered, another
            one has the name.
    """
    return _registering("optimizer", name, version)


def schedule(name: str, *, version: int) -> Callable[[F], F]:
    """Return a decorator that registers a learning-rate schedule, for ``train.schedule``: a
    function of (part, ``TrainConfig``) to the factor by which ``train.lr`` is multiplied.

    ``part`` is how much of the training after the warm-up is done, from 0 to 1.

    Args:
        name: The schedule's name.
        version: A whole number from 1 on, to be increased whenever the code changes the factor.

    Raises:
        Refused: The name or the version is not allowed or, when the function is registered, another
            one has the name.
    """
    return _registering("schedule", name, version)


def callback(name: str, *, version: int) -> Callable[[F], F]:
    """Return a decorator that registers a callback, for ``train.callbacks``: a function of the
    ``RunConfig`` that makes a Lightning ``Callback``.

    Args:
        name: The callback's name.
        version: A whole number from 1 on, to be increased whenever the code changes what a run
            computes.

    Raises:
        Refused: The name or the version is not allowed or, when the function is registered, another
            one has the name.
    """
    return _registering("callback", name, version)


def _registering(kind: Kind, name: str, version: int, **about: Any) -> Callable[[F], F]:
    """Return a decorator that registers a function and returns it.

    Args:
        kind: Kind of the component that the function makes.
        name: The component's name.
        version: The component's version.
        about: Further arguments of the registration, such as a metric's unit, for ``Entry.about``.

    Raises:
        Refused: The name or the version is not allowed; or, when the decorator is called, another
            function is registered under the name.
    """
    place = f"register.{kind}({name!r})"
    if not isinstance(name, str) or not re.fullmatch(r"[a-zA-Z]\w*", name):
        raise Refused(f"{place}: a name is made of letters, digits and '_', the first one a letter")
    if type(version) is not int or version < 1:
        raise Refused(
            f"{place}: the version {version!r} is not allowed; it must be a whole number of at least 1"
        )

    def register(make: F) -> F:
        new = Entry(
            kind=kind, name=name, version=version, make=make, about=about, source=_source(make)
        )
        # A name stands for one component. The same function may register it again, as a notebook's
        # cell does that is run twice, and replaces the former; the same file that was imported
        # under another name is passed over; whatever else has the name is refused.
        other = _entries.get((kind, name))
        if other and _identity(other.make) != _identity(make):
            _refuse_unless_same_file(other, new, place)
            # The module was imported, and a configuration names its file, too: once is enough.
            return make
        if other and new.source and other.source == new.source:
            first, second = _first_line(other.make), _first_line(make)
            if first != second:
                raise Refused(
                    f"{place}: {_file(new)} registers it in line {first} and in line {second}; rename one of them"
                )
        _entries[kind, name] = new
        return make

    return register


def _refuse_unless_same_file(registered: Entry, new: Entry, place: str) -> None:
    """Refuse a component under the name of a registered one, unless both are the function of the
    same name in the same file, with the same content.

    Args:
        registered: The component that has the name.
        new: The component that is to have it.
        place: The call that registers the new one, for the error.
    """
    same_function = _identity(registered.make)[1] == _identity(new.make)[1]
    if same_function and registered.source and registered.source == new.source:
        return
    first, second = _file(registered), _file(new)
    if first == second and registered.source != new.source:
        raise Refused(f"{place}: {first} {CHANGED}")
    raise Refused(f"{place}: {first} and {second} both register it; rename one of them")


def _identity(make: Callable[..., Any]) -> tuple[str, str]:
    """Return a function's module and qualified name, which stay the same when it is defined anew,
    as a notebook's cell does that is run twice.
    """
    function = _function(make)
    if isinstance(make, functools.partial):
        # Two partials of a function are two things, unless all is given in them alike.
        return function.__module__, f"{function.__qualname__} {make.args} {make.keywords}"
    return function.__module__, function.__qualname__


def _function(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function or class that was registered; of a ``functools.partial``, its function."""
    while isinstance(make, functools.partial):
        make = make.func
    return make


def _first_line(make: Callable[..., Any]) -> int | None:
    """Return the line of a function's file in which the function begins; None for a class."""
    code = getattr(_function(make), "__code__", None)
    return code.co_firstlineno if code else None


def _source(make: Callable[..., Any]) -> Source | None:
    """Return the file of a function's module with a digest of what it holds now; None where the
    module has no file.
    """
    file = getattr(sys.modules.get(_function(make).__module__), "__file__", None)
    if file is None or not Path(file).is_file():
        return None
    path = Path(file).resolve()
    return Source(path, hashlib.sha256(path.read_bytes()).hexdigest())


def _file(entry: Entry) -> str:
    """Return the path of the file that registered a component, or else the name of its module."""
    return str(entry.source.path) if entry.source else _function(entry.make).__module__


# ---- called by xceptlab itself -------------------------------------------------------------------


def located(modules: Any, folder: Path) -> Any:
    """Return a list of all ``modules``, in which the paths of ``.py`` files are absolute.

    Args:
        modules: The value of ``extensions``. What is no list is returned as it is, so that the
            check of types refuses it.
        folder: Folder of the file that names the modules; relative paths begin there.
    """
    if not isinstance(modules, list | tuple):
        return modules
    return [
        str((folder / name).resolve()) if isinstance(name, str) and name.endswith(".py") else name
        for name in modules
    ]


def load(modules: Iterable[str]) -> None:
    """Execute modules that register components, each of them once per process.

    Args:
        modules: Paths of ``.py`` files, or names of importable modules.

    Raises:
        Refused: There is no such module, or it raises an error; the message names the error and the
            line of the module. Or its file has changed since this process loaded it.
    """
    for module in modules:
        path = _path(module)
        key = str(path or module)
        content = path.read_bytes() if path and path.is_file() else b""
        if key in _loaded:
            # A file that is gone has not changed.
            is_there = path is not None and path.is_file()
            if is_there and content != _loaded[key].content:
                raise Refused(f"extensions: {module}: {CHANGED}")
            continue
        if path and not path.is_file():
            raise Refused(f"extensions: {module}: no such file")
        before = set(_entries)
        _execute(module, path)
        new = _entries.keys() - before
        identities = frozenset(_entries[kind_and_name].identity for kind_and_name in new)
        _loaded[key] = Loaded(identities, content)


def unused(modules: Iterable[str], used: Collection[str]) -> list[str]:
    """Return a warning, one line, for each of the modules that has registered components none of
    which is used; empty where there is no such module.

    Args:
        modules: Modules that ``load`` has executed.
        used: The identities of the components that are used, such as ``activation squash``.
    """
    lines = []
    for module in modules:
        registered = _loaded[str(_path(module) or module)].identities
        if registered and registered.isdisjoint(used):
            lines.append(
                f"extensions: {module}: registers {', '.join(sorted(registered))}, and nothing of it is used"
            )
    return lines


def _path(module: str) -> Path | None:
    """Return the absolute path of a module that is given as a ``.py`` file; None for one that is
    given by its import name, such as ``my_package.layers``.
    """
    return Path(module).resolve() if module.endswith(".py") else None


def _execute(module: str, path: Path | None) -> None:
    """Execute a module that registers components: the file at ``path`` or, where that is None, the
    importable module of this name.

    Raises:
        Refused: The module raises an error, or there is none of this name.
    """
    try:
        if path is None:
            importlib.import_module(module)
            return
        name = f"xceptlab_extension_{path.stem}_{hashlib.sha256(bytes(path)).hexdigest()[:8]}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        # Dataclasses and pickle look there for the module of a class.
        sys.modules[name] = made
        try:
            spec.loader.exec_module(made)
        except BaseException:
            del sys.modules[name]
            raise
    except Refused as error:
        raise Refused(f"extensions: {module}: {error}") from None
    except (Exception, SystemExit) as error:
        raise Refused(
            f"extensions: {module}: {_line(error, path)}{type(error).__name__}: {error}"
        ) from error


def _line(error: BaseException, path: Path | None) -> str:
    """Return the innermost line of the file ``path`` in an error's traceback, or the line of a
    syntax error in this file, as the beginning of a message such as ``line 3: ``; empty if the file
    is not in the traceback or ``path`` is None.
    """
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"line {error.lineno}: "
    # Python names a file as it was found, perhaps by a link, and ``path`` is resolved.
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if os.path.realpath(frame.filename) == str(path)
    ]
    return f"line {lines[-1]}: " if lines else ""


def that_raised(error: BaseException, components: Iterable[Entry]) -> Entry | None:
    """Return the first of some components in whose file, or in what that has called, an error was
    raised; None if there is none.
    """
    return next((entry for entry in components if entry.raised(error)), None)


def all_loaded() -> list[Entry]:
    """Return all components that are registered in this process so far. Modules of installed
    packages are not loaded for it.
    """
    return list(_entries.values())


def find(kind: Kind, name: str) -> Entry | None:
    """Return the component registered under a name; None if there is none. Where nothing has
    registered it so far, the modules of installed packages are loaded first, once per process.

    Raises:
        Refused: The module of an installed package is not there, or raises an error.
    """
    if (kind, name) not in _entries:
        _load_installed()
    return loaded(kind, name)


def loaded(kind: Kind, name: str) -> Entry | None:
    """Return the component that is registered under a name in this process so far; None if there is
    none. Modules of installed packages are not loaded for it.
    """
    return _entries.get((kind, name))


def entry(kind: Kind, name: str) -> Entry:
    """Return the component registered under a name, also by an installed package.

    Raises:
        Refused: Nothing is registered under this name, or the module of an installed package is
            not there or raises an error.
    """
    found = find(kind, name)
    if found is None:
        raise Refused(
            f"no {kind} {name!r} is registered; there are {', '.join(names(kind)) or 'none'}"
        )
    return found


def names(kind: Kind) -> list[str]:
    """Return the names of the components of a kind that are registered in this process so far,
    sorted. Modules of installed packages are not loaded for it.
    """
    assert kind in get_args(Kind)
    return sorted(name for one, name in _entries if one == kind)


def _load_installed() -> None:
    """Load, once per process, the modules that installed packages declare as entry points of the
    group ``xceptlab``.

    Raises:
        Refused: A module is not there, or raises an error. The next call loads this module again,
            and then those after it.
    """
    if INSTALLED in _loaded:
        return
    # Set before, as a module may look for a component while it is loaded.
    _loaded[INSTALLED] = Loaded()
    try:
        for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
            load([point.value.partition(":")[0]])
    except BaseException:
        del _loaded[INSTALLED]
        raise
