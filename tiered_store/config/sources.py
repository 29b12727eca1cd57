"""Where values come from: a TOML file and the environment, flattened to ``section.name``.

Values are not judged here, only names: whatever does not name a setting is a fault that says which known
one is nearest. The invariant: each value carries the source that a fault about it has to name.
"""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tiered_store.config.faults import Fault, nearest
from tiered_store.config.model import SECTIONS, takes_text

__all__ = ["DEFAULT", "SHARED", "Layer", "Raw", "from_environment", "from_file"]

#: The source of what nobody said.
DEFAULT = "default"
_PREFIX = "TIERED_STORE_"
#: Short names and those that deployments used before this daemon, each for one setting.
_ALIASES = {
    "TIERED_STORE_SOCKET": "server.socket",
    "STORAGE_LOCAL_PATH": "origin.path",
    "STORAGE_CACHE_PATH": "disk.path",
    "STORAGE_CACHE_MEMORY_MAX_BYTES": "memory.max_bytes",
    "S3_BUCKET": "s3.bucket",
    "S3_REGION": "s3.region",
    "S3_ENDPOINT": "s3.endpoint_url",
    "STORAGE_CDN_BASE_URL": "cdn.base_url",
    "STORAGE_CDN_TIMEOUT_MS": "cdn.timeout_ms",
}
#: Names that other programs read too: they do not say that anybody wants S3 here.
SHARED = frozenset({"S3_BUCKET", "S3_REGION", "S3_ENDPOINT"})
#: Variables that this package reads elsewhere.
_ELSEWHERE = {"TIERED_STORE_CONFIG"}
#: Options of ``tiered-store gocacheprog``, which go commands start without a command line of ours.
_OF_GO = "TIERED_STORE_GO_"
_UNSUPPORTED_SECTIONS = {"metrics"}
_NOT_HERE = "is not supported by this version"
#: What tomllib raises: ValueErrors, also for a number with more digits than Python reads, and tables too deep for it.
_NO_TOML = (ValueError, RecursionError)


@dataclass(frozen=True, slots=True)
class Raw:
    """A value as it was written, and where."""

    value: object
    source: str


@dataclass(slots=True)
class Layer:
    """What one source says.

    Attributes:
        values: by ``section.name``, and ``policies`` for the array of rules.
        faults: names that nobody knows, and sources that cannot be read.
        notices: what the operator should know although it is no fault.
    """

    values: dict[str, Raw] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def from_file(path: Path) -> Layer:
    """Read a TOML file."""
    layer, source = Layer(), str(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for somebody to write into it
            layer.faults.append(Fault(source, "", "cannot be read: it is not a regular file"))
            return layer
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        layer.faults.append(Fault(source, "", f"cannot be read: {error.strerror}; check the path and its permissions"))
        return layer
    except _NO_TOML as error:
        layer.faults.append(Fault(source, "", f"is not TOML: {error}"))
        return layer
    for section, table in tree.items():
        if section == "policies":
            layer.values["policies"] = Raw(table, source)
        elif section not in SECTIONS:
            layer.faults.append(Fault(source, section, _unknown_section(section)))
        elif not isinstance(table, dict):
            layer.faults.append(Fault(source, section, f"is a table; write it as [{section}]"))
        else:
            for name, value in table.items():
                _put(layer, section, name, Raw(value, source))
    return layer


def from_environment(environment: Mapping[str, str]) -> Layer:
    """Read ``TIERED_STORE_<SECTION>__<NAME>`` and the fixed names. An empty variable counts as not set."""
    layer = Layer()
    present = {name: value for name, value in sorted(environment.items()) if value}
    _read_backend(layer, present)
    for variable, setting in _ALIASES.items():
        if not variable.startswith(_PREFIX) and variable in present:
            layer.values[setting] = Raw(_literal_of(setting, present[variable]), variable)
    for variable, text in present.items():
        if variable.startswith(_PREFIX):
            _read_variable(layer, variable, text)
    if "TIERED_STORE_SOCKET" in present:  # last: it wins over the section's variable, as it does in the client
        layer.values["server.socket"] = Raw(present["TIERED_STORE_SOCKET"], "TIERED_STORE_SOCKET")
    return layer


def _read_variable(layer: Layer, variable: str, text: str) -> None:
    section, separator, name = variable.removeprefix(_PREFIX).lower().partition("__")
    if section == "policies" and not separator:
        layer.values["policies"] = Raw(_literal(text), variable)
    elif not separator:
        # Not a fault: orchestrators invent such names (Kubernetes sets TIERED_STORE_SERVICE_HOST beside
        # a service called tiered-store).
        if variable not in _ALIASES and variable not in _ELSEWHERE and not variable.startswith(_OF_GO):
            layer.notices.append(f"{variable} names no setting and is ignored; settings are TIERED_STORE_SECTION__NAME")
    elif section not in SECTIONS:
        layer.faults.append(Fault(variable, section, _unknown_section(section)))
    else:
        _put(layer, section, name, Raw(_literal_of(f"{section}.{name}", text), variable))


def _put(layer: Layer, section: str, name: str, raw: Raw) -> None:
    setting = f"{section}.{name}"
    if name not in SECTIONS[section].model_fields:
        hint = nearest(name, SECTIONS[section].model_fields)
        layer.faults.append(Fault(raw.source, setting, f"unknown setting; {hint}"))
        return
    earlier = layer.values.get(setting)
    if earlier is not None:
        layer.notices.append(f"{earlier.source} is ignored, because {raw.source} is set too")
    layer.values[setting] = raw


def _unknown_section(section: str) -> str:
    if section in _UNSUPPORTED_SECTIONS:
        return f"{_NOT_HERE}; remove it"
    return f"unknown section; {nearest(section, [*SECTIONS, 'policies'])}"


def _literal_of(setting: str, text: str) -> object:
    section, _, name = setting.partition(".")
    if takes_text(SECTIONS[section], name):
        return text
    value = _literal(text)
    if name.endswith("ids") and not isinstance(value, list):
        return _literal(f"[{text}]")  # "0,1000" is how lists are written in the environment
    return value


def _literal(text: str) -> object:
    """A text from the environment as the TOML value it spells, else as it stands ("64MB")."""
    try:
        return tomllib.loads(f"value = {text.strip()}")["value"]
    except _NO_TOML:
        return text


def _read_backend(layer: Layer, present: Mapping[str, str]) -> None:
    """``STORAGE_BACKEND`` names the origin itself, or ``tiered`` and leaves that to ``STORAGE_ORIGIN_BACKEND``."""
    backend, origin = present.get("STORAGE_BACKEND"), present.get("STORAGE_ORIGIN_BACKEND")
    if backend not in {None, "local", "s3", "tiered"}:
        layer.faults.append(
            Fault("STORAGE_BACKEND", "origin.backend", f"must be 'local', 's3' or 'tiered', not {backend!r}")
        )
    elif backend in {"local", "s3"} and origin not in {None, backend}:
        layer.faults.append(
            Fault(
                "STORAGE_ORIGIN_BACKEND",
                "origin.backend",
                f"is {origin!r} but STORAGE_BACKEND is {backend!r}; set that to 'tiered' or unset one of them",
            )
        )
    elif backend in {"local", "s3"}:
        layer.values["origin.backend"] = Raw(backend, "STORAGE_BACKEND")
    elif origin is not None:
        layer.values["origin.backend"] = Raw(origin, "STORAGE_ORIGIN_BACKEND")
