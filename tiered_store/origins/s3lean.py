"""What makes one request to S3 cheaper in the SDK, by the means that it offers for other purposes.

Most of a small read's time is the SDK's own Python. Three things in it are done anew for each request although they
come out alike, or in a dear way: the endpoint is derived from rules, whose answer is kept under all parameters, the key
among them; the ``User-Agent`` is composed, twice; dates go through a parser that guesses at their format. And a large
body is read from a file object in memory in small pieces, each by way of a thread.

But for the ``User-Agent``, nothing here changes what is sent or understood. Without it everything works, only slower,
and with more memory; except that an upload to a server that has fallen silent would not end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Any, Final

import aiobotocore
import botocore
from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import ReadTimeoutError
from botocore.utils import parse_timestamp

__all__ = ["USER_AGENT", "PiecewiseSession", "keep_endpoints", "parse_dates_quickly"]

#: A composed one would name features that each request uses; servers only log it.
USER_AGENT: Final = f"tiered_store aiobotocore/{aiobotocore.__version__} Botocore/{botocore.__version__}"
#: Parameters that the rules for S3's endpoints declare and never look at.
_UNUSED_BY_RULES: Final = frozenset({"Key", "Prefix", "CopySource"})
#: Operations whose requests come by the thousand.
_FREQUENT: Final = ("GetObject", "HeadObject", "PutObject", "UploadPart", "DeleteObject", "ListObjectsV2")
#: What of a body is given to the socket at once.
_PIECE_BYTES: Final = 256 * 1024


class PiecewiseSession(AIOHTTPSession):  # type: ignore[misc]
    """The SDK's way to servers, with large bodies sent piece by piece, and none to a server that has fallen silent.

    The SDK's read timeout begins when a request has been sent. One whose server does not take the body, or does not
    say that it would (``Expect``), would never end. Here each piece has as long as a connection and an answer have.
    """

    async def send(self, request: Any) -> Any:
        """Send a request that has been signed; gives the answer."""
        body = request.body
        if isinstance(body, BytesIO):  # the SDK's dress for bytes; this gives them back as they are
            body = body.getvalue()
        if not isinstance(body, bytes) or not body:
            return await super().send(request)
        patience_s: float = self._timeout.sock_connect + self._timeout.sock_read
        small = len(body) <= _PIECE_BYTES
        try:
            async with asyncio.timeout(2 * patience_s if small else patience_s) as limit:
                if not small:
                    request.body = _pieces(body, limit, patience_s)  # its length is a field of the request by now
                return await super().send(request)
        except TimeoutError as error:
            raise ReadTimeoutError(endpoint_url=request.url, error=error) from error


async def _pieces(body: bytes, limit: asyncio.Timeout, patience_s: float) -> AsyncIterator[memoryview]:
    now, view = asyncio.get_running_loop().time, memoryview(body)
    for start in range(0, len(body), _PIECE_BYTES):
        limit.reschedule(now() + patience_s)
        yield view[start : start + _PIECE_BYTES]
    limit.reschedule(now() + 2 * patience_s)  # for the last ones to leave, and for the answer


def keep_endpoints(client: Any) -> None:
    """Let the SDK find again what it derived for another key of the bucket."""
    for name in _FREQUENT:
        operation = client.meta.service_model.operation_model(name)
        parameters = operation.context_parameters
        parameters[:] = [one for one in parameters if one.name not in _UNUSED_BY_RULES]


def parse_dates_quickly(session: Any) -> None:
    """To be called before the session makes a client."""
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_parse_date)


def _parse_date(value: Any) -> datetime:
    """As the SDK does, but dates as headers and listings have them by parsers that know these two formats."""
    if isinstance(value, str):
        try:
            parse = parsedate_to_datetime if value.endswith("GMT") else datetime.fromisoformat
            found = parse(value)
        except ValueError:
            pass
        else:
            if found.tzinfo is not None:
                return found
    return parse_timestamp(value)  # type: ignore[no-any-return]
