"""What operations of the object API share in their description: parameters, headers, schemas, answers. Pure."""

from __future__ import annotations

from typing import Any, Final

from tiered_store.key import MAX_KEY_BYTES

__all__ = ["BYTES", "FAULTS", "JSON", "components", "json_content", "reference"]

JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"
_PROBLEM: Final = "application/problem+json"
#: The rules of keys (``key.py``) as far as a regular expression can say them; what it cannot say is their size in
#: bytes. A key that breaks them is a 400.
_SEGMENT: Final = r"(?!\.{1,2}(?:/|$)|\.tiered_store)[^/\\\u0000-\u001f\u007f-\u009f\u2028\u2029]+"
_PATH: Final = f"{_SEGMENT}(?:/{_SEGMENT})*"
#: What a key may begin with: whole segments, and a beginning of one.
_BEGINNING: Final = rf"(?:{_SEGMENT}/)*(?:{_SEGMENT}|\.{{0,2}})"
_TAG: Final = '(?:W/)?"[!#-~]*"'
_ARTIFACT: Final = "sha256:[0-9a-f]{64}"

#: What may be wrong, by the name of the answer: its status, and when it is given.
FAULTS: Final[dict[str, tuple[int, str]]] = {
    "BadRequest": (400, "The key, the query, a header or the document is malformed, or the body ended early."),
    "Unauthenticated": (401, "A token is needed for this, and none was sent that is known."),
    "PermissionDenied": (403, "What was sent is known, and may not do this; or the daemon's user may not."),
    "NotFound": (404, "There is no object under this key."),
    "NoSuchMethod": (405, "The path has other methods, which Allow names."),
    "Slow": (408, "The request did not come in time."),
    "KeyConflict": (409, "One key is a path prefix of another, which a directory as the origin cannot hold."),
    "PreconditionFailed": (412, "A precondition does not hold."),
    "TooLarge": (413, "The body is over a limit."),
    "UriTooLong": (414, "The path is longer than any key."),
    "UnsupportedCoding": (415, "The body has a Content-Encoding; it is taken as it is only."),
    "RangeNotSatisfiable": (416, "None of the ranges has a byte of the object."),
    "ExpectationFailed": (417, "Something else than 100-continue was expected."),
    "WrongDigest": (422, "The bytes do not have the digest that the key says."),
    "HeadersTooLarge": (431, "Headers, or the object's metadata, are over a limit."),
    "Internal": (500, "The request ended with an error that is a fault of the daemon, or of its origin."),
    "Damaged": (502, "What the origin gave does not have its digest."),
    "Unavailable": (503, "The origin does not answer, or the daemon is full; Retry-After says when to try again."),
    "Deadline": (504, "The answer was not there in time; or, with only-if-cached, no tier has it."),
    "QuotaExceeded": (507, "There is no room."),
}


def reference(kind: str, name: str) -> dict[str, str]:
    """A reference to one of the parts."""
    return {"$ref": f"#/components/{kind}/{name}"}


def json_content(schema: dict[str, Any], text: str, **more: Any) -> dict[str, Any]:
    """An answer with a document."""
    return {"description": text, "content": {JSON: {"schema": schema}}, **more}


def components() -> dict[str, Any]:
    """All of them."""
    return {
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer", "description": "A token, see docs/security.md."},
            "basic": {"type": "http", "scheme": "basic", "description": "The token as the password."},
        },
        "parameters": _parameters(),
        "headers": _headers(),
        "schemas": {**_schemas_of_keys(), **_schemas_of_documents()},
        "responses": _responses(),
    }


def _parameter(name: str, place: str, schema: dict[str, Any], text: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "in": place, "description": text, "schema": schema, **more}


def _parameters() -> dict[str, Any]:
    tags = {"anyOf": [{"const": "*"}, {"type": "string", "pattern": f"^{_TAG}(?:, {_TAG})*$"}]}
    date = {"type": "string", "examples": ["Sun, 06 Nov 1994 08:49:37 GMT"]}
    return {
        "Key": _parameter(
            "key",
            "path",
            reference("schemas", "Key"),
            "The object's key. Slashes may stand as they are; what else is reserved in URLs must be escaped.",
            required=True,
        ),
        "Artifact": _parameter("artifact", "path", reference("schemas", "ArtifactKey"), "The digest.", required=True),
        "Prefix": _parameter("prefix", "query", reference("schemas", "Prefix"), "What the keys begin with."),
        "Limit": _parameter(
            "limit",
            "query",
            {"type": "integer", "minimum": 1, "default": 1000},
            "How many at most; not more than 1000.",
        ),
        "Cursor": _parameter("cursor", "query", {"type": "string"}, "As the page before gave it; none for the first."),
        "Download": _parameter(
            "download",
            "query",
            {"type": "string"},
            "Have browsers save the object, under this name or the key's last segment.",
        ),
        "IfMatch": _parameter("If-Match", "header", tags, "Only if the object is one of these."),
        "IfNoneMatch": _parameter("If-None-Match", "header", tags, "Only if it is none of these; * is any."),
        "IfModifiedSince": _parameter("If-Modified-Since", "header", date, "Only if it is newer."),
        "IfUnmodifiedSince": _parameter("If-Unmodified-Since", "header", date, "Only if it is not newer."),
        "Range": _parameter(
            "Range",
            "header",
            {"type": "string", "examples": ["bytes=0-99", "bytes=-5, 10-19"]},
            "Which bytes, up to 16 ranges.",
        ),
        "IfRange": _parameter(
            "If-Range", "header", {"type": "string"}, "The ranges count only if the object is this one."
        ),
        "CacheControl": _parameter(
            "Cache-Control", "header", {"type": "string"}, "only-if-cached: the origin is not asked."
        ),
    }


def _headers() -> dict[str, Any]:
    texts = {
        "ETag": "The version: of an artifact its digest, else the origin's.",
        "Last-Modified": "When the object was written.",
        "Cache-Control": "Whether the key's policy lets it be kept.",
        "Repr-Digest": "An artifact's digest (RFC 9530).",
        "Content-Range": "Which bytes these are.",
        "Content-Disposition": "Where ?download asks for it.",
        "X-Tier": "Which place answered: memory, disk, cdn or origin.",
        "Server-Timing": "The same, and what it took in milliseconds.",
        "WWW-Authenticate": "Bearer.",
        "Retry-After": "Seconds.",
        "Allow": "The path's methods.",
    }
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in texts.items()}


def _schemas_of_keys() -> dict[str, Any]:
    return {
        "Key": {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_KEY_BYTES,
            "anyOf": [{"pattern": f"^{_ARTIFACT}$"}, {"pattern": f"^(?!sha256:){_PATH}$"}],
            "description": f"1 to {MAX_KEY_BYTES} bytes of UTF-8: an artifact's key, or a path.",
            "examples": ["sessions/a/files/x.txt"],
        },
        "PathKey": {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_KEY_BYTES,
            "pattern": f"^(?!sha256:){_PATH}$",
            "description": "A key that is no artifact's.",
        },
        "ArtifactKey": {"type": "string", "pattern": f"^{_ARTIFACT}$"},
        "Prefix": {
            "type": "string",
            "maxLength": MAX_KEY_BYTES,
            "anyOf": [{"pattern": "^sha256:[0-9a-f]{0,64}$"}, {"pattern": f"^(?!sha256:){_BEGINNING}$"}],
            "description": "The beginning of some key, or empty.",
        },
    }


def _schemas_of_documents() -> dict[str, Any]:
    return {
        "Object": {
            "type": "object",
            "required": ["key", "size", "etag", "content_type", "metadata", "modified"],
            "additionalProperties": False,
            "properties": {
                "key": reference("schemas", "Key"),
                "size": {"type": "integer", "minimum": 0, "description": "Bytes."},
                "etag": {"type": "string", "description": "As in ETag, with its quotes."},
                "content_type": {"type": ["string", "null"]},
                "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                "modified": {"type": "string", "format": "date-time"},
            },
        },
        "Page": {
            "type": "object",
            "required": ["objects", "cursor"],
            "properties": {
                "objects": {
                    "type": "array",
                    "items": reference("schemas", "Object"),
                    "description": "In byte order of the key. A page may have few, or none, and not be the last.",
                },
                "cursor": {"type": ["string", "null"], "description": "For the next page; null after the last."},
            },
        },
        "Problem": {
            "type": "object",
            "required": ["title", "status", "detail", "code"],
            "properties": {
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "detail": {"type": "string", "description": "One sentence for a human."},
                "code": {"type": "string", "description": "The error's name, such as NotFound."},
                "key": {"type": "string"},
                "retryable": {"type": "boolean", "description": "Whether the same request may succeed later."},
                "expected": {"type": "string", "description": "The digest that was promised."},
                "actual": {"type": "string", "description": "The digest that was found."},
                "source": {"type": "string", "description": "Where the bytes came from."},
            },
        },
    }


def _responses() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (_, text) in FAULTS.items():
        headers = {
            "Unauthenticated": ["WWW-Authenticate"],
            "Unavailable": ["Retry-After"],
            "RangeNotSatisfiable": ["Content-Range"],
            "NoSuchMethod": ["Allow"],
        }.get(name, [])
        found[name] = {
            "description": text,
            "content": {_PROBLEM: {"schema": reference("schemas", "Problem")}},
            **({"headers": {header: reference("headers", header) for header in headers}} if headers else {}),
        }
    return found
