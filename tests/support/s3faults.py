"""What can go wrong between an origin and an S3 server, by name, for the fault proxy."""

from __future__ import annotations

from dataclasses import replace

from tests.support.faultproxy import Answer, Fault

__all__ = ["FAULTS", "HARMLESS", "HOPELESS", "PARTIAL"]

_SERVER_ERROR = Answer(500, "InternalError", "We encountered an internal error. Please try again.")
_SLOW_DOWN = Answer(503, "SlowDown", "Please reduce your request rate.")

_RESET_ANSWER = Fault("answer body", "reset")

#: Each is switched on while requests are made, and off again.
FAULTS: dict[str, Fault] = {
    "latency": Fault(latency_s=0.2),
    "little bandwidth": Fault(bytes_per_s=24 << 20),
    "refused": Fault("connection", "close"),
    "reset when connected": Fault("connection", "reset"),
    "black hole": Fault("connection", "silence"),
    "black hole that takes nothing": Fault("connection", "deaf"),
    "request head cut": Fault("request head", "close"),
    "request cut": Fault("request body", "close"),
    "request reset": Fault("request body", "reset"),
    "request stalls": Fault("request body", "deaf"),
    "answer head cut": Fault("answer head", "close"),
    "answer head stalls": Fault("answer head", "silence"),
    "body cut short": Fault("answer body", "close"),
    "body reset": _RESET_ANSWER,
    "body stalls": Fault("answer body", "silence"),
    "500": Fault(answer=_SERVER_ERROR),
    "503": Fault(answer=_SLOW_DOWN),
    "500 burst": Fault(answer=_SERVER_ERROR, times=2),
    "503 burst": Fault(answer=_SLOW_DOWN, times=2),
    "500 now and then": Fault(answer=_SERVER_ERROR, every=3),
    "page of a stranger": Fault(answer=Answer(200, "Captive", "<html>please log in</html>")),
    "flipped going up": Fault(flips="up"),
    "flipped coming down": Fault(flips="down"),
    "wrong etag": Fault(etag=lambda number: "0" * 32),
    "another etag each time": Fault(etag=lambda number: f"{number:032x}"),
    "flapping": replace(_RESET_ANSWER, every=2),
    "flapping connections": Fault("connection", "reset", every=2),
    "flapping silence": Fault("answer body", "silence", every=2),
}
#: All must go well in spite of these; nothing may go well under those.
HARMLESS = frozenset({"latency", "little bandwidth"})
HOPELESS = frozenset({"refused", "reset when connected", "black hole", "500", "503", "request head cut"})
#: These change only bodies, or only answers that have an ETag.
PARTIAL = frozenset({"flipped going up", "flipped coming down", "wrong etag", "another etag each time"})
