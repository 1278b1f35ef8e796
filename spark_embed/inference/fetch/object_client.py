"""An s3:// URI -> the bytes of the object, many at once; knows no threads, no rows and no order.

Runs on the event loop of downloads.py, in a Spark task. A store that is away, or busy, is waited for; one
that stays away fails the task, not the image: nothing is wrong with that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from xml.etree import ElementTree

import aiohttp
from yarl import URL

from spark_embed.errors import ImageError, StorageError
from spark_embed.inference.fetch.http_client import Transfer
from spark_embed.inference.fetch.references import DownloadPolicy
from spark_embed.storage import split_s3
from spark_embed.storage.s3.client import traffic
from spark_embed.storage.s3.errors import S3Error, S3NotFoundError, S3PassingError, explain
from spark_embed.storage.s3.patience import is_busy, max_attempts, pause_s
from spark_embed.storage.s3.requests import ObjectRequests

_MAX_ANSWER_BYTES = 64 << 10

# Answers that say of the image that it is not to be had, and why; all others are about the run.
_OF_THE_OBJECT = {
    **dict.fromkeys(("AccessDenied", "AllAccessDisabled"), "access denied (s3:GetObject)"),
    "InvalidObjectState": "in an archive, and not restored from it (Glacier)",
    **dict.fromkeys(("KMS.DisabledException", "KMS.NotFoundException"), "its KMS key is not there any more"),
}
_NO_NAMES = {"KeyTooLongError", "InvalidURI", "XMinioInvalidObjectName"}


class ObjectClient:
    """A session with its limits. Use it with `async with`, on one event loop."""

    def __init__(self, policy: DownloadPolicy, max_bytes: int) -> None:
        self._policy = policy
        self._max_bytes = max_bytes
        self._requests = ObjectRequests()
        self._turns = asyncio.Semaphore(policy.concurrency)

    async def __aenter__(self) -> ObjectClient:
        timeout = aiohttp.ClientTimeout(
            total=None, connect=self._policy.connect_timeout_s, sock_read=self._policy.read_timeout_s
        )
        # The store's address is the operator's, so it may be a private one.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=timeout,
            skip_auto_headers=("Accept", "Accept-Encoding"),
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._session.close()
        await asyncio.sleep(0)  # transports close their sockets in the loop's next round

    async def get(self, uri: str, transfer: Transfer) -> bytearray:
        """Return the bytes of the object at `uri`.

        Raises:
            ImageError: not_found, forbidden or too_many_bytes.
            StorageError: the store stays away, or does not accept who we are any more.
        """
        loop = asyncio.get_running_loop()
        n_attempts = max_attempts()
        if not split_s3(uri)[1]:
            raise ImageError("not_found", uri)
        try:
            if not self._requests.knows(uri):  # the first of a bucket asks the store
                await loop.run_in_executor(None, self._requests.url, uri)
            url = self._requests.url(uri)
            for attempt in range(1, n_attempts + 1):
                try:
                    async with self._turns:
                        return await self._ask(uri, url, transfer)
                except S3PassingError as exc:
                    if attempt == n_attempts:
                        raise S3PassingError(f"{exc}, {attempt} times") from exc
                await asyncio.sleep(pause_s(attempt))
        except S3Error as exc:
            raise StorageError(f"{uri}: cannot be read: {exc}") from exc
        raise AssertionError("an attempt returns or raises")

    async def _ask(self, uri: str, url: str, transfer: Transfer) -> bytearray:
        loop = asyncio.get_running_loop()
        started = loop.time()
        headers, route = self._requests.headers(uri, url), self._requests.route(uri)
        n_bytes = 0
        try:
            async with self._session.get(
                URL(url, encoded=True),
                headers=headers,
                allow_redirects=False,
                proxy=route.proxy,
                ssl=route.tls,
            ) as response:
                if response.status != 200:
                    raise await _error_of(response, uri)
                data = await transfer.receive(response, self._max_bytes, uri)
                n_bytes = len(data)
                return data
        except (aiohttp.ClientError, OSError) as exc:
            if isinstance(exc, S3Error):
                raise
            # Not the library's text: it may hold the whole URL.
            raise S3PassingError(f"the store cannot be reached: {type(exc).__name__}") from exc
        finally:
            traffic.add(1, n_bytes)
            transfer.seconds += loop.time() - started


async def _error_of(response: aiohttp.ClientResponse, uri: str) -> Exception:
    """Return what to raise for an answer that is not the object."""
    fields = _parse_error(await _read_answer(response))
    code = fields.get("Code", "") or ("AccessDenied" if response.status == 403 else "")
    if is_busy(response.status, code):
        return S3PassingError(f"the store answered {code or response.status}")
    if response.status in (400, 403) and code in _OF_THE_OBJECT:
        return ImageError("forbidden", f"{_OF_THE_OBJECT[code]}: {uri}")
    if code in _NO_NAMES:
        return ImageError("not_found", uri)
    error = explain(_as_parsed(fields, response.status, response.headers), uri)
    if isinstance(error, S3NotFoundError) and code != "NoSuchBucket":
        return ImageError("not_found", uri)
    return error


async def _read_answer(response: aiohttp.ClientResponse) -> bytes:
    """Return the beginning of a body, which may come in pieces."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _MAX_ANSWER_BYTES:
            break
    return bytes(body)


def _parse_error(body: bytes) -> dict[str, str]:
    """Return the fields of an error answer, such as its Code; none if it is not one.

    https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    """
    if b"<!" in body:  # no entity has a place in it
        return {}
    try:
        fields = ElementTree.fromstring(body)  # noqa: S314  no entities, 64 KB at most
    except ElementTree.ParseError:
        return {}
    return {field.tag.rpartition("}")[2]: field.text or "" for field in fields}


def _as_parsed(fields: Mapping[str, str], status: int, headers: Mapping[str, str]) -> dict[str, object]:
    """Return an answer as the SDK would have it."""
    known = {name.lower(): value for name, value in headers.items()}
    return {
        "Error": {"Code": str(status), **fields},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": known},
    }
