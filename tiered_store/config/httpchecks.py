"""Faults of the HTTP door that one value cannot show; as in ``checks``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tiered_store.config.checks import Finding
from tiered_store.config.httpmodel import HttpSection, is_loopback
from tiered_store.config.model import Config
from tiered_store.config.sources import DEFAULT

__all__ = ["check_http", "http_notices"]


def check_http(config: Config) -> Iterator[Finding]:
    """Every fault of whom the door lets in."""
    section = config.http
    if section.open and not is_loopback(section.host):
        yield (
            "http.open",
            f"lets in who connects, and {section.host} is not of this machine alone; remove it, or listen on 127.0.0.1",
        )
    if section.port and not section.open and not config.access.tokens:
        yield (
            "http.port",
            "nobody could do anything there: add a token (access.tokens), or let in programs of this machine (open)",
        )
    closed = next((instance.name for instance in config.build.instances if instance.anonymous == "none"), None)
    if section.open and closed is not None and "anonymous" not in section.model_fields_set:
        message = f"whoever reads objects reads the contents of instance {closed!r} by hash"
        yield "http.anonymous", f"is 'read' by default, and {message}; say 'none', or 'read' if that is meant"
    yield from _check_tls(section)


def _check_tls(section: HttpSection) -> Iterator[Finding]:
    certificate, key = section.tls_certificate, section.tls_key
    if certificate is None or key is None:
        if certificate is not None:
            yield "http.tls_certificate", "needs its key: name that file, which may be the same, in http.tls_key"
        if key is not None:
            yield "http.tls_key", "is that of a certificate: name its file in http.tls_certificate"
        return
    from tiered_store.config.tls import TlsFault, server_context  # the ssl module takes long to load

    try:
        server_context(certificate, key)
    except TlsFault as fault:
        yield "http.tls_key" if fault.is_key else "http.tls_certificate", fault.message


def http_notices(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    """What an operator should know: what others can read on its way, or from a file, and settings without effect."""
    section = config.http
    if not section.port:
        for name in ("host", "open", "anonymous", "tls_certificate", "tls_key", "cors_origins"):
            if sources[f"http.{name}"] != DEFAULT:
                yield f"http.{name} from {sources[f'http.{name}']} has no effect: there is no http.port"
        return
    if not section.open and sources["http.anonymous"] != DEFAULT:
        yield f"http.anonymous from {sources['http.anonymous']} has no effect: http.open is off"
    if section.tls_key is None:
        if not is_loopback(section.host):
            yield (
                f"http.host {section.host} is reached by plain http: whoever is between can change objects and "
                "read tokens; set http.tls_certificate and http.tls_key, or put a proxy with TLS before it"
            )
        return
    from tiered_store.config.tls import is_readable_by_all

    if is_readable_by_all(section.tls_key):
        yield f"http.tls_key {section.tls_key} can be read by everybody on this machine; chmod o-r"
