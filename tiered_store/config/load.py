"""Sources, in their order, made into one judged ``Config``.

Flags win over the environment, that over the file, that over the defaults. Nothing is touched: a
configuration with faults raises all of them at once, and one without has only been looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tiered_store.config.accesschecks import access_notices, check_access
from tiered_store.config.accessmodel import ARRAYS
from tiered_store.config.cdnchecks import cdn_notices, check_cdn
from tiered_store.config.checks import check, check_policies, journal_notices
from tiered_store.config.defaults import default_paths, paths_below
from tiered_store.config.faults import ConfigError, Fault, nearest
from tiered_store.config.httpchecks import check_http, http_notices
from tiered_store.config.model import SECTIONS, Config, PolicyRule, Section, is_private
from tiered_store.config.s3checks import check_s3, s3_notices, unused_notices
from tiered_store.config.sizes import format_size
from tiered_store.config.sources import DEFAULT, SHARED, Layer, Raw, from_environment, from_file

__all__ = ["Flags", "Loaded", "load"]

_DATA_DIR = "--data-dir"
#: Places below these belong to the daemon, which makes what is missing. A place that somebody named must be there.
_OWN_PLACES = frozenset({DEFAULT, _DATA_DIR})


@dataclass(frozen=True, slots=True)
class Flags:
    """What the command line says; None where it says nothing."""

    socket: Path | None = None
    data_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration without faults.

    Attributes:
        config: the settings.
        sources: by ``section.name``, where the value came from (a file, variable, flag or ``"default"``).
        again: reads it once more, from the same places as they are then; raises ConfigError as :func:`load` does.
        notices: what the operator should know; for the log.
    """

    config: Config
    sources: Mapping[str, str]
    again: Callable[[], Loaded] = field(compare=False, repr=False)
    notices: tuple[str, ...] = ()


@dataclass(slots=True)
class _Reading:
    """The state of one load: values by setting, and what was found wrong so far."""

    values: dict[str, Raw]
    faults: list[Fault] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def add(self, layer: Layer) -> None:
        """Put a source over those that were read before; what it replaces there is said."""
        for setting, raw in layer.values.items():
            earlier = self.values.get(setting)
            if earlier is not None and earlier.source != DEFAULT:
                self.notices.append(f"{setting} from {earlier.source} is not used, because {raw.source} is set")
        self.values.update(layer.values)
        self.faults.extend(layer.faults)
        self.notices.extend(layer.notices)


def load(
    file: Path | None = None,
    *,
    flags: Flags = Flags(),
    environment: Mapping[str, str] = os.environ,
    uid: int | None = None,
    home: Path | None = None,
) -> Loaded:
    """Read, merge and judge a configuration.

    Args:
        file: a TOML file, or None for none.
        flags: what the command line says.
        environment: variables to look at.
        uid: whose defaults to take; the current user's if None.
        home: that user's home directory; looked up if None.

    Raises:
        ConfigError: with every fault found.
    """
    paths = default_paths(environment, os.geteuid() if uid is None else uid, _home() if home is None else home)
    defaults = {
        "server.socket": paths.socket,
        "origin.path": paths.origin,
        "disk.path": paths.cache,
        "write_back.path": paths.journal,
    }
    reading = _Reading({setting: Raw(path, DEFAULT) for setting, path in defaults.items()})
    if file is not None:
        reading.add(from_file(file))
    reading.add(_meant(from_environment(environment), reading))
    reading.add(_from_flags(flags))

    sections = {name: _section(reading, name, model, defaults) for name, model in SECTIONS.items()}
    numbered = _policies(reading)
    config = Config.model_validate({**sections, "policies": tuple(rule for _, rule in numbered)})
    sources = _sources_of(reading)
    faulty = {fault.setting for fault in reading.faults}
    named = {setting: source not in _OWN_PLACES for setting, source in sources.items()}
    found = (*check(config, named), *check_s3(config, sources, faulty), *check_cdn(config), *check_policies(numbered))
    for setting, message in (*found, *check_http(config), *check_access(config)):
        if setting not in faulty:
            reading.faults.append(Fault(sources[setting.partition("[")[0]], setting, message))
    if reading.faults:
        raise ConfigError(reading.faults)
    of_s3, of_cdn = (*unused_notices(config, sources, named), *s3_notices(config)), cdn_notices(config, sources)
    others = (*journal_notices(config), *access_notices(config), *http_notices(config, sources))
    again = partial(load, file, flags=flags, environment=environment, uid=uid, home=home)
    return Loaded(config, sources, again, (*reading.notices, *of_s3, *of_cdn, *others))


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a user without an entry in passwd, as in containers: the checks will say what cannot be used
        return Path("/")


def _meant(layer: Layer, earlier: _Reading) -> Layer:
    """The environment without what other programs' variables say of S3, where the origin is none: it is not judged."""
    backend = layer.values.get("origin.backend") or earlier.values.get("origin.backend")
    if backend is None or backend.value != "s3":
        for setting, raw in [*layer.values.items()]:
            if raw.source in SHARED:
                del layer.values[setting]
                layer.notices.append(f"{raw.source} has no effect: origin.backend is not 's3'")
    return layer


def _from_flags(flags: Flags) -> Layer:
    layer = Layer()
    if flags.socket is not None:
        layer.values["server.socket"] = Raw(flags.socket.absolute(), "--socket")
    if flags.data_dir is not None:
        origin, cache, journal = paths_below(flags.data_dir.absolute())
        layer.values["origin.path"] = Raw(origin, _DATA_DIR)
        layer.values["disk.path"] = Raw(cache, _DATA_DIR)
        layer.values["write_back.path"] = Raw(journal, _DATA_DIR)
    return layer


def _section(reading: _Reading, name: str, model: type[Section], defaults: Mapping[str, Path]) -> Section:
    """Build one section; a faulty value is reported and stands in as its default, so that the others are judged too."""
    given = {s.partition(".")[2]: raw for s, raw in reading.values.items() if s.partition(".")[0] == name and "." in s}
    values = {key: raw.value for key, raw in given.items()}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for details in error.errors():
            key, *inside = details["loc"]
            key, setting = str(key), f"{name}.{key}"
            if setting in ARRAYS and inside:  # the table by its place, counted from 1, and the setting in it
                fields = ARRAYS[setting].model_fields
                told = f"{setting}[{int(inside[0]) + 1}].{inside[1]}"
                reading.faults.append(Fault(given[key].source, told, _say(told, details, fields)))
            else:
                reading.faults.append(Fault(given[key].source, setting, _say(setting, details)))
            values.pop(key, None)
            if setting in defaults:
                values[key] = defaults[setting]
        return model.model_validate(values)


def _policies(reading: _Reading) -> list[tuple[int, PolicyRule]]:
    """The rules, each with its place in the list, counted from 1."""
    raw = reading.values.get("policies", Raw([], DEFAULT))
    if not isinstance(raw.value, list) or not all(isinstance(item, dict) for item in raw.value):
        reading.faults.append(
            Fault(raw.source, "policies", "is an array of tables; write each rule below [[policies]]")
        )
        return []
    return [(number, _rule(reading, raw.source, number, item)) for number, item in enumerate(raw.value, 1)]


def _rule(reading: _Reading, source: str, number: int, given: Mapping[str, object]) -> PolicyRule:
    """Build one rule; as for a section, what is faulty is reported and stands in as its default."""
    try:
        return PolicyRule.model_validate(given)
    except ValidationError as error:
        values = dict(given)
        for details in error.errors():
            key = str(details["loc"][0])
            setting = f"policies[{number}].{key}"
            reading.faults.append(Fault(source, setting, _say(setting, details)))
            values.pop(key, None)
        # A prefix has no default. This one belongs to no key, so that no other rule is taken for its double.
        return PolicyRule.model_validate({"prefix": f"\0{number}", **values})


def _sources_of(reading: _Reading) -> dict[str, str]:
    settings = [f"{name}.{key}" for name, model in SECTIONS.items() for key in model.model_fields]
    sources = {s: reading.values[s].source if s in reading.values else DEFAULT for s in settings}
    sources["policies"] = reading.values.get("policies", Raw(None, DEFAULT)).source
    return sources


#: pydantic's error types in the words of this project; {input} and the error's own context can be used.
_SENTENCES = {
    "missing": "is missing; every rule needs it",
    "int_type": "must be a whole number, not {input!r}",
    "int_from_float": "must be a whole number, not {input!r}",
    "float_type": "must be a number, not {input!r}",
    "finite_number": "must be a finite number, not {input!r}",
    "bool_type": "must be true or false, not {input!r}",
    "string_type": "must be a text in quotes, not {input!r}",
    "literal_error": "must be {expected}, not {input!r}",
    "greater_than": "must be more than {gt}, not {input!r}",
    "greater_than_equal": "must be at least {ge}, not {input!r}",
    "less_than_equal": "must be at most {le}, not {input!r}",
    "value_error": "{error}",
}
_LATER_BACKENDS = {"gcs", "tiered"}


def _say(setting: str, details: ErrorDetails, known: Iterable[str] = PolicyRule.model_fields) -> str:
    kind, given = details["type"], details["input"]
    if kind == "extra_forbidden":
        return f"unknown setting; {nearest(str(details['loc'][-1]), known)}"
    if setting == "origin.backend" and isinstance(given, str) and given in _LATER_BACKENDS:
        return f"{given!r} is not supported by this version; use 'local' or 's3'"
    if kind == "string_type" and _is_private(setting):
        return "must be a text in quotes"
    context: dict[str, Any] = {**details.get("ctx", {}), "input": given}
    for bound in ("gt", "ge", "le"):
        if bound in context:
            context[bound] = format_size(context[bound]) if setting.endswith("_bytes") else f"{context[bound]:.12g}"
    return _SENTENCES.get(kind, details["msg"]).format_map(context)


def _is_private(setting: str) -> bool:
    section, _, name = setting.partition(".")
    return section in SECTIONS and is_private(SECTIONS[section], name)
