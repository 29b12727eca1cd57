"""What the program can be told, on its command line or by the environment; read without an argument parser.

Every go command starts the program anew, and ``argparse`` or click would be half of what that takes. So the usual forms
are read here, and whatever else (a question for help, a mistake) is left to the command line proper, which knows the
same options from :data:`OPTIONS`.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Final

__all__ = ["OPTIONS", "Option", "Options", "options_of", "read"]

_NAME_CHARACTERS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
_NAME_MAX: Final = 64
_LONGEST_S: Final = 1e6
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


class Option:
    """One option.

    Attributes:
        name: as in ``--name``.
        variable: of the environment, where the command line does not say it.
        metavar: what follows it; empty for a switch.
        text: for ``--help``.
    """

    __slots__ = ("metavar", "name", "text", "variable")

    def __init__(self, name: str, variable: str, metavar: str, text: str) -> None:
        self.name = name
        self.variable = variable
        self.metavar = metavar
        self.text = text


OPTIONS: Final = (
    Option("instance", "TIERED_STORE_GO_INSTANCE", "NAME", "Who shares what is stored. Default: default."),
    Option("dir", "TIERED_STORE_GO_DIR", "PATH", "Go's files. Default: $XDG_CACHE_HOME/tiered_store/go."),
    Option("max-size", "TIERED_STORE_GO_MAX_SIZE", "SIZE", "What they may take, such as 20GiB. Default: 8GiB."),
    Option("max-age", "TIERED_STORE_GO_MAX_AGE", "DAYS", "How long unused ones are kept. Default: 5."),
    Option("deadline", "TIERED_STORE_GO_DEADLINE", "SECONDS", "How long go waits for the daemon. Default: 5."),
    Option("drain", "TIERED_STORE_GO_DRAIN", "SECONDS", "How long go waits for uploads at its end. Default: 10."),
    Option("read-only", "TIERED_STORE_GO_READ_ONLY", "", "Put nothing into the daemon."),
    Option("verbose", "TIERED_STORE_GO_VERBOSE", "", "Say on standard error what was found where."),
    Option("socket", "", "PATH", "The daemon's socket, as for all commands."),
)


class Options:
    """What the program was told.

    Attributes:
        socket: the daemon's; None leaves it to the environment.
        instance: who shares what is stored.
        directory: where Go's files are, absolute.
        max_bytes: what they may take.
        max_age_s: how long unused ones are kept.
        deadline_s: how long a go command waits for the daemon, for each file.
        drain_s: how long it waits for uploads at its end.
        is_read_only: whether nothing is put into the daemon.
        is_verbose: whether a summary is written to standard error.
    """

    def __init__(self) -> None:
        self.socket: str | None = None
        self.instance = "default"
        self.directory = ""
        self.max_bytes = 8 * 2**30
        self.max_age_s = 5 * 86400.0
        self.deadline_s = 5.0
        self.drain_s = 10.0
        self.is_read_only = False
        self.is_verbose = False


def options_of(given: Mapping[str, str | bool | None], environment: Mapping[str, str]) -> Options:
    """Options from the command line, by name, and from the environment.

    Raises:
        ValueError: one of them cannot be meant; says which.
    """
    said: dict[str, Any] = {}
    for option in OPTIONS:
        value = given.get(option.name)
        said[option.name] = value if value not in {None, False} else environment.get(option.variable) or None
    options = Options()
    options.socket = said["socket"]
    if said["instance"] is not None:
        options.instance = _name(said["instance"])
    options.directory = os.path.join(  # noqa: PTH118 - pathlib costs an import of 5 ms
        os.path.abspath(os.path.expanduser(said["dir"] or _default_directory(environment))),  # noqa: PTH100, PTH111 - as above
        options.instance,
    )
    if said["max-size"] is not None:
        from tiered_store.config.sizes import parse_size

        options.max_bytes = _checked("max-size", said["max-size"], parse_size)
    options.max_age_s = 86400 * _number("max-age", said, options.max_age_s / 86400)
    options.deadline_s = _number("deadline", said, options.deadline_s, above_zero=True)
    options.drain_s = _number("drain", said, options.drain_s)
    options.is_read_only = _switch("read-only", said)
    options.is_verbose = _switch("verbose", said)
    return options


def _default_directory(environment: Mapping[str, str]) -> str:
    cache = environment.get("XDG_CACHE_HOME", "")
    return (cache if cache.startswith("/") else "~/.cache") + "/tiered_store/go"


def _name(text: str) -> str:
    if not 0 < len(text) <= _NAME_MAX or text.strip(_NAME_CHARACTERS) or not text[0].isalnum():
        raise ValueError(
            f"instance: is named by 1 to {_NAME_MAX} of A-Z a-z 0-9 . _ -, a letter or digit first, not {text!r}"
        )
    return text


def _checked(name: str, value: Any, parse: Any) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _number(name: str, said: Mapping[str, Any], default: float, *, above_zero: bool = False) -> float:
    if said[name] is None:
        return default
    number: float = _checked(name, said[name], float)
    if not 0 <= number <= _LONGEST_S or (above_zero and not number):
        raise ValueError(f"{name}: must be {'above 0' if above_zero else '0 or more'} and at most 1e6, not {number}")
    return number


def _switch(name: str, said: Mapping[str, Any]) -> bool:
    value = said[name]
    if value is None or value is True:
        return value is True
    if value.lower() not in _TRUE | _FALSE:
        raise ValueError(f"{name}: must be 1 or 0, not {value!r}")
    return value.lower() in _TRUE


def read(arguments: Sequence[str]) -> dict[str, str | bool] | None:
    """The options of a command line, by name; None where it is not as simple as it mostly is."""
    switches = {f"--{option.name}": option.name for option in OPTIONS if not option.metavar}
    named = {f"--{option.name}": option.name for option in OPTIONS if option.metavar}
    given: dict[str, str | bool] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if argument in switches:
            given[switches[argument]] = True
        elif name in named and equals:
            given[named[name]] = value
        elif argument in named and rest:
            given[named[argument]] = rest.pop(0)
        else:
            return None
    return given
