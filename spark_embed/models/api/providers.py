"""The registry of providers: how each is asked, and what its answers say of what they cost; sends nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import aiohttp

from spark_embed.errors import ImageError
from spark_embed.models.api.file import ApiFile

Usage = dict[str, float]
"""Of one answer or many: "pages", "input_tokens", "output_tokens"."""

_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
)


def media_type(data: bytes) -> str | None:
    """Return what encoded bytes are, by their beginning; None for what is not known here."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), None)


class Asking(ABC):
    """How a provider is asked about one image.

    Attributes:
        path: of its requests, behind base_url.
        sends: what `media_type` may say of what is sent; None for anything.
    """

    path: ClassVar[str]
    sends: ClassVar[frozenset[str] | None] = None

    def __init__(self, api: ApiFile) -> None:
        self.url = api.base_url + self.path
        self._api = api
        said = [self.url, self.template("", ""), api.max_edge]
        self._template = hashlib.sha256(json.dumps(said, sort_keys=True).encode())

    def key(self, data: bytes) -> str:
        """Return what is the same for the same request, the sha256 of all but the secret."""
        whole = self._template.copy()
        whole.update(data)
        return whole.hexdigest()

    def check(self, data: bytes) -> str:
        """Return the media type of what will be sent.

        Raises:
            ImageError: not_an_image, before anything is paid for it.
        """
        kind = media_type(data)
        if self.sends is not None and kind not in self.sends:
            raise ImageError("not_an_image", f"{self._api.provider} takes {', '.join(sorted(self.sends))}")
        return kind or "application/octet-stream"

    @abstractmethod
    def template(self, kind: str, data: str) -> dict[str, Any]:
        """Return the request's fields for an image of this media type, as base64."""

    def body(self, kind: str, data: bytes) -> dict[str, Any]:
        """Return what aiohttp sends, as its keyword arguments."""
        return {"json": self.template(kind, base64.b64encode(data).decode())}

    def lacking(self, usage: Usage) -> str | None:
        """Return what an answer does not say, though a limit or a price goes by it; None if it says all."""
        api, prices = self._api, self._api.prices
        needed = {
            "pages_per_minute": ("pages", api.pages_per_minute),
            "tokens_per_minute": ("input_tokens", api.tokens_per_minute),
            "prices.page": ("pages", prices.page),
            "prices.million_input_tokens": ("input_tokens", prices.million_input_tokens),
            "prices.million_output_tokens": ("output_tokens", prices.million_output_tokens),
        }
        for name, (counted, value) in needed.items():
            if value and counted not in usage:
                what = counted.replace("_", " ")
                return (
                    f"an answer does not say how many {what} it took (usage), and {name} goes by that; it is "
                    f"kept: without {name} in the file the same command goes on"
                )
        return None

    @abstractmethod
    def usage(self, answer: dict[str, Any]) -> Usage:
        """Return what an answer says that it has cost."""

    def units(self, usage: Usage) -> float:
        """Return what of it the key's second limit counts."""
        return sum(n for name, n in usage.items() if (name == "pages") == bool(self._api.pages_per_minute))


class OpenAiChat(Asking):
    """Chat completions about an image, as OpenAI, vLLM and Ollama take them (docs.vllm.ai, multimodal)."""

    path = "/chat/completions"
    sends = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})

    def template(self, kind: str, data: str) -> dict[str, Any]:
        """Return the request's fields."""
        image = {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}
        text = [{"type": "text", "text": self._api.prompt}] if self._api.prompt else []
        message = {"role": "user", "content": [*text, image]}
        return {"model": self._api.model, "messages": [message], **self._api.fields}

    def usage(self, answer: dict[str, Any]) -> Usage:
        """Return its tokens."""
        return _counts(answer, input_tokens="prompt_tokens", output_tokens="completion_tokens")


class OpenAiEmbeddings(OpenAiChat):
    """Embeddings by vLLM's pooling models, which take chat messages (docs.vllm.ai, chat embedding client)."""

    path = "/embeddings"


class DocumentParse(Asking):
    """Document parsing in Upstage's shape: a form with the file (console.upstage.ai, api-quickstart)."""

    path = "/document-digitization"

    def template(self, kind: str, data: str) -> dict[str, Any]:
        """Return the form's fields; lists are texts there."""
        fields = {"model": self._api.model, **self._api.fields}
        return {name: one if isinstance(one, str) else json.dumps(one) for name, one in fields.items()}

    def body(self, kind: str, data: bytes) -> dict[str, Any]:
        """Return the form."""
        form = aiohttp.FormData(self.template(kind, ""))
        name = f"document.{kind.rpartition('/')[2]}"
        form.add_field("document", data, filename=name, content_type=kind)
        return {"data": form}

    def usage(self, answer: dict[str, Any]) -> Usage:
        """Return its pages."""
        return _counts(answer, pages="pages")


ASKING: dict[str, type[Asking]] = {
    "openai_chat": OpenAiChat,
    "openai_embeddings": OpenAiEmbeddings,
    "document_parse": DocumentParse,
}


def cost_usd(api: ApiFile, usage: Usage, n_answers: int = 1) -> float:
    """Return what so many answers have cost together."""
    prices = api.prices
    return (
        prices.request * n_answers
        + prices.page * usage.get("pages", 0)
        + prices.million_input_tokens * usage.get("input_tokens", 0) / 1e6
        + prices.million_output_tokens * usage.get("output_tokens", 0) / 1e6
    )


def _counts(answer: dict[str, Any], **names: str) -> Usage:
    """Return what an answer's usage says under these names, by ours; what it does not say is left out."""
    usage = answer.get("usage")
    said = {ours: usage.get(name) for ours, name in names.items()} if isinstance(usage, dict) else {}
    return {
        ours: float(value)
        for ours, value in said.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e12
    }
