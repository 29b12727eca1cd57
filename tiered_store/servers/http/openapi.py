"""The object API described as OpenAPI 3.1, for people, generators of clients, and tests that hold it to its word.

Written by hand beside the handlers, because a description says more than code shows: what a header means, which errors
a caller has to expect. ``docs/openapi.json`` is the same document; tests compare it with this one, with what is served,
and with the paths and methods that the door really answers.
"""

from __future__ import annotations

from typing import Any, Final

from tiered_store.servers.http.components import BYTES, FAULTS, JSON, components, json_content, reference

__all__ = ["description"]

#: Of the API, and not of the program: it stays while what is described here does.
_VERSION: Final = "1.0"
#: What any request may be answered with.
_ALWAYS: Final = ("BadRequest", "Slow", "UriTooLong", "HeadersTooLarge", "Internal", "Unavailable", "Deadline")
_IF_REFUSED: Final = ("Unauthenticated", "PermissionDenied")
_OF_READS: Final = ("NotFound", "PreconditionFailed", "Damaged")
_OF_WRITES: Final = ("KeyConflict", "PreconditionFailed", "QuotaExceeded")
_OF_BODIES: Final = ("TooLarge", "UnsupportedCoding", "ExpectationFailed")
_OBJECT_HEADERS: Final = ("ETag", "Last-Modified", "Cache-Control", "Repr-Digest", "Content-Disposition", "X-Tier")
_CONDITIONS: Final = ("IfMatch", "IfNoneMatch", "IfModifiedSince", "IfUnmodifiedSince")


def description() -> dict[str, Any]:
    """The document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tiered_store: object API",
            "version": _VERSION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": (
                "Objects by key, through the tiers of one daemon. Errors are problem documents (RFC 9457) whose code "
                "is the error's name. Who may not do something is answered alike whether there is an object or not. "
                "On a unix socket, and on a door that is open to its machine, no token is needed."
            ),
        },
        "security": [{"bearer": []}, {"basic": []}],
        "paths": {
            "/v1/objects": _objects(),
            "/v1/objects/{key}": _object(),
            "/v1/artifacts": {"put": _put("Store bytes under their own sha256", "addArtifact")},
            "/v1/artifacts/{artifact}": {
                "parameters": [reference("parameters", "Artifact")],
                "put": _put("Store an artifact, whose bytes must have this digest", "putArtifact", "WrongDigest"),
            },
            "/v1/exists": {"post": _exists()},
            "/v1/copy": {"post": _copy()},
            "/v1/health": _document("Health", "Whether the daemon answers", {"status": {"const": "ok"}}),
            "/v1/stats": _document("Stats", "What the daemon has done and holds; for administrators", None),
            "/v1/openapi.json": _document("Description", "This document", {"openapi": {"type": "string"}}),
        },
        "components": components(),
    }


def _operation(name: str, summary: str, faults: tuple[str, ...], done: dict[str, Any], **more: Any) -> dict[str, Any]:
    answers = {str(FAULTS[fault][0]): reference("responses", fault) for fault in (*_ALWAYS, *faults)}
    return {"operationId": name, "summary": summary, **more, "responses": dict(sorted({**answers, **done}.items()))}


def _parameters(*names: str) -> list[dict[str, str]]:
    return [reference("parameters", name) for name in names]


def _headers(*names: str) -> dict[str, Any]:
    return {name: reference("headers", name) for name in names}


def _both(name: str, operation: dict[str, Any]) -> dict[str, Any]:
    """A GET, and the HEAD that is answered as it without a body."""
    bare = {
        status: {part: value for part, value in answer.items() if part != "content"} if "$ref" not in answer else answer
        for status, answer in operation["responses"].items()
    }
    head = {**operation, "operationId": f"head{name}", "responses": bare}
    return {"get": {**operation, "operationId": f"get{name}"}, "head": head}


def _document(name: str, summary: str, properties: dict[str, Any] | None) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    if properties is not None:
        schema |= {"required": [*properties], "properties": properties}
    faults = _IF_REFUSED if properties is None else ()
    more: dict[str, Any] = {} if faults else {"security": []}
    return _both(name, _operation("", summary, faults, {"200": json_content(schema, "It is.")}, **more))


def _objects() -> dict[str, Any]:
    page = json_content(reference("schemas", "Page"), "A page of those objects that the caller may read.")
    listing = _operation(
        "", "List objects", _IF_REFUSED, {"200": page}, parameters=_parameters("Prefix", "Limit", "Cursor")
    )
    count: dict[str, Any] = {
        "type": "object",
        "required": ["deleted"],
        "properties": {"deleted": {"type": "integer", "minimum": 0}},
    }
    needed = {"name": "prefix", "in": "query", "required": True, "description": "What their keys begin with."}
    return {
        **_both("Objects", listing),
        "delete": _operation(
            "deleteObjects",
            "Delete all objects whose keys begin with something",
            _IF_REFUSED,
            {"200": json_content(count, "How many there were.")},
            parameters=[{**needed, "schema": {**reference("schemas", "Prefix"), "minLength": 1}}],
        ),
    }


def _object() -> dict[str, Any]:
    whole = {
        "description": "The object.",
        "headers": _headers(*_OBJECT_HEADERS, "Server-Timing"),
        "content": {"*/*": {"schema": {}}},
    }
    part = {
        "description": "The bytes that were asked for; several ranges as multipart/byteranges.",
        "headers": _headers(*_OBJECT_HEADERS, "Content-Range"),
        "content": {"*/*": {"schema": {}}},
    }
    same = {"description": "It is what the caller has.", "headers": _headers("ETag", "Last-Modified", "Cache-Control")}
    get = _operation(
        "",
        "Get an object, or bytes of it",
        (*_IF_REFUSED, *_OF_READS, "RangeNotSatisfiable"),
        {"200": whole, "206": part, "304": same},
        parameters=_parameters("Download", *_CONDITIONS, "Range", "IfRange", "CacheControl"),
    )
    return {
        "parameters": _parameters("Key"),
        **_both("Object", get),
        "put": _put("Store an object, in place of what is there", "putObject", "WrongDigest"),
        "delete": _operation(
            "deleteObject",
            "Delete an object",
            (*_IF_REFUSED, "NotFound", "KeyConflict", "PreconditionFailed"),
            {"204": {"description": "It is gone."}},
            parameters=_parameters("IfMatch", "IfNoneMatch"),
        ),
    }


def _put(summary: str, name: str, *faults: str) -> dict[str, Any]:
    stored = json_content(reference("schemas", "Object"), "It is stored.", headers=_headers("ETag"))
    text = "Content-Type is kept, and so is metadata: headers whose names begin with x-meta-."
    return _operation(
        name,
        summary,
        (*_IF_REFUSED, *_OF_WRITES, *_OF_BODIES, *faults),
        {"200": stored},
        description=text,
        parameters=_parameters("IfMatch", "IfNoneMatch"),
        requestBody={"description": "The bytes.", "content": {BYTES: {"schema": {}}}},
    )


def _asked(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {JSON: {"schema": {"type": "object", **schema}}}}


def _exists() -> dict[str, Any]:
    keys = {"type": "array", "maxItems": 10_000, "items": reference("schemas", "Key")}
    flags = {"type": "array", "items": {"type": "boolean"}}
    answer = {"type": "object", "required": ["exists"], "properties": {"exists": flags}}
    return _operation(
        "exists",
        "Ask whether objects exist",
        (*_IF_REFUSED, *_OF_BODIES),
        {"200": json_content(answer, "For each key, in the order of the question.")},
        requestBody=_asked({"required": ["keys"], "properties": {"keys": keys}}),
    )


def _copy() -> dict[str, Any]:
    # An artifact is made by putting its bytes, which are verified.
    names = {"source": reference("schemas", "Key"), "target": reference("schemas", "PathKey")}
    return _operation(
        "copy",
        "Copy an object, inside the origin where it can",
        (*_IF_REFUSED, "NotFound", "Damaged", *_OF_WRITES, *_OF_BODIES, "WrongDigest"),
        {"200": json_content(reference("schemas", "Object"), "The copy.")},
        requestBody=_asked({"required": [*names], "properties": names}),
    )
