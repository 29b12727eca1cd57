"""What is left out of a request must not be missed: endpoints of every key, dates of every kind."""

import asyncio
import io
import json
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace

import aioboto3
import botocore.session
import pytest
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession
from botocore.utils import parse_timestamp

from tests.support.faultproxy import Fault, FaultProxy
from tests.support.s3 import shared_server
from tiered_store.aio.offload import Offload
from tiered_store.errors import OriginUnavailable
from tiered_store.origins.base import PutHeaders
from tiered_store.origins.s3 import S3Origin
from tiered_store.origins.s3client import S3Client
from tiered_store.origins.s3lean import PiecewiseSession, parse_dates_quickly
from tiered_store.origins.s3settings import S3Settings


@pytest.fixture
async def offload():
    offload = Offload(1, "test")
    yield offload
    await offload.close()


def test_the_rules_for_endpoints_look_at_no_key_and_at_no_prefix():
    rules = botocore.session.get_session().get_component("data_loader").load_service_model("s3", "endpoint-rule-set-1")
    for name in ("Key", "Prefix", "CopySource"):
        assert name in rules["parameters"]  # else this test asks for a word that the rules no longer use
        assert f'"{name}"' not in json.dumps(rules["rules"])
        assert f"{{{name}}}" not in json.dumps(rules["rules"])


async def test_an_endpoint_is_derived_once_for_all_keys_of_a_bucket(offload):
    origin = S3Client(shared_server().settings(), offload)
    await origin.start()
    try:
        kept = origin.s3._ruleset_resolver._provider.resolve_endpoint.cache_info
        await origin.s3.put_object(Bucket=origin.settings.bucket, Key="a", Body=b"1")
        before = kept().misses
        for name in ("b", "c/d"):
            await origin.s3.put_object(Bucket=origin.settings.bucket, Key=name, Body=b"1")
        assert kept().misses == before
    finally:
        await origin.close()


@pytest.mark.parametrize(("path_style", "host"), [(True, "s3.eu-west-3.amazonaws.com/b-1"), (False, "b-1.s3.")])
async def test_each_bucket_has_an_endpoint_of_its_own(path_style, host, offload):
    settings = S3Settings("b-1", region="eu-west-3", path_style=path_style, access_key_id="a", secret_access_key="b")
    origin = S3Client(settings, offload)
    await origin.start()
    try:
        for key in ("x", "y"):
            url = await origin.s3.generate_presigned_url("get_object", Params={"Bucket": "b-1", "Key": key})
            assert host in url
            assert url.split("?")[0].endswith(f"/{key}")
        other = await origin.s3.generate_presigned_url("get_object", Params={"Bucket": "b-2", "Key": "x"})
        assert "b-2" in other
        assert "b-1" not in other
    finally:
        await origin.close()


def _parser():
    session = AioSession()
    parse_dates_quickly(session)
    return session.get_component("response_parser_factory")._defaults["timestamp_parser"]


@pytest.mark.parametrize(
    "text",
    [
        "Sat, 21 Nov 2026 09:03:00 GMT",
        "2026-11-21T09:03:00.000Z",
        "2026-11-21T09:03:00Z",
        "2026-11-21T11:03:00+02:00",
        "1795251780",
        1795251780,
        "Saturday, 21-Nov-26 09:03:00 GMT",
    ],
)
def test_dates_are_what_the_sdk_makes_of_them(text):
    found = _parser()(text)
    assert found == parse_timestamp(text)
    assert found.utcoffset() is not None


def test_a_date_without_a_zone_is_left_to_the_sdk():
    assert _parser()("2026-11-21T09:03:00") == parse_timestamp("2026-11-21T09:03:00")
    assert _parser()("2026-11-21T11:03:00+02:00") == datetime(2026, 11, 21, 9, 3, tzinfo=UTC)
    assert _parser()("2026-11-21T11:03:00+02:00").astimezone(timezone(timedelta(hours=2))).hour == 11
    with pytest.raises(ValueError, match="neither"):
        _parser()("neither")


def test_the_session_is_the_usual_one():
    """aioboto3's own session takes ours; the parser is not one for all sessions of the process."""
    core = AioSession()
    parse_dates_quickly(core)
    assert aioboto3.Session(botocore_session=core)._session is core
    assert "timestamp_parser" not in AioSession().get_component("response_parser_factory")._defaults


@pytest.mark.parametrize("ends", ["request head", "request body"])
@pytest.mark.parametrize("size", [300 * 1024, 2 * 1024 * 1024, 9 * 1024 * 1024])
async def test_a_server_that_does_not_take_a_body_is_given_up(ends, size, offload):
    """It would not answer whether it takes it, or would stop in the middle; the SDK would wait for ever."""
    proxy = FaultProxy(shared_server().port)
    settings = shared_server().settings(endpoint_url=proxy.url, read_timeout_s=0.5, part_bytes=8 * 1024 * 1024)
    origin = S3Origin(settings, offload)
    await origin.start()
    try:
        proxy.set(Fault(ends, "silence", only=lambda request: request.method == "PUT"))
        with pytest.raises(OriginUnavailable):
            await origin.put("a", bytes(size), PutHeaders())
        proxy.set()
        await origin.put("a", b"x" * size, PutHeaders())
        assert (await origin.stat("a")).size == size
    finally:
        await origin.close()
        proxy.close()


async def test_a_slow_server_is_waited_for(monkeypatch):
    """As long as it takes some bytes now and then, however long all of them take."""
    taken = []

    async def slow(_, request):
        async for piece in request.body:
            taken.append(len(piece))
            await asyncio.sleep(0.1)
        return "answer"

    monkeypatch.setattr(AIOHTTPSession, "send", slow)
    session = PiecewiseSession(timeout=(0.3, 0.3))
    request = SimpleNamespace(body=io.BytesIO(bytes(15 * 256 * 1024)), url="http://there")
    assert await session.send(request) == "answer"
    assert taken == [256 * 1024] * 15
