"""A provider of models on the loopback: chat completions and document parsing, good answers and bad ones.

What it does to a request is decided by the image: the word behind the last # of its bytes, `make_image`.
"""

import asyncio
import base64
import io
import json
import threading
import time
from collections import Counter
from contextlib import suppress

from aiohttp import web
from PIL import Image

KEY_VARIABLE, KEY = "TEST_PROVIDER_KEY", "sk-secret-4711"

CHAT = {
    "provider": "openai_chat",
    "model": "tiny",
    "key": KEY_VARIABLE,
    "prompt": "what is it?",
    "columns": {
        "label": "choices[0].message.content.label",
        "certainty": "choices[0].message.content.score as float",
    },
}


def make_image(what: str, number: int = 0) -> bytes:
    """Return a small PNG that says what is to become of a request about it."""
    made = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256 % 256, 0)).save(made, "PNG")
    return made.getvalue() + f"#{what}-{number}".encode()


class ProviderServer:
    """Runs in a thread of its own until `close`.

    Attributes:
        sent: (monotonic time, mark) of each request, as they came.
        answered: whole good answers that were sent, by mark.
        in_flight: requests being answered now, by mark.
        latency_s, capacity: how long an answer takes, and how many are made at once; others wait.
        max_per_s: requests in any second; 429 beyond; None for no limit.
        status: what every request gets; None: as its image says.
    """

    def __init__(self):
        self.sent: list[tuple[float, str]] = []
        self.answered = Counter()
        self.in_flight = Counter()
        self.latency_s, self.capacity, self.max_per_s, self.status = 0.0, 1000, None, None
        self.n_at_once = self.most_at_once = 0
        self.keys = set()
        self.texts = {}
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()
        assert self._started.wait(10)
        self.base_url = f"http://127.0.0.1:{self.port}/v1"

    def close(self):
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(10)

    @property
    def marks(self):
        return Counter(mark for _, mark in self.sent)

    def n_again(self):
        """Requests about images whose good answer had been sent before."""
        return sum(number - 1 for number in self.answered.values())

    def _main(self):
        asyncio.run(self._serve())

    async def _serve(self):
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        self._turns = None
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/embeddings", self._embed)
        app.router.add_post("/v1/document-digitization", self._parse)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=512)
        await site.start()
        self.port = runner.addresses[0][1]
        self._started.set()
        await self._closing.wait()
        await runner.cleanup()

    async def _chat(self, request):
        body = await request.json()
        content = body["messages"][0]["content"]
        url = next(part["image_url"]["url"] for part in content if part["type"] == "image_url")
        prompt = next((part["text"] for part in content if part["type"] == "text"), "")
        image = base64.b64decode(url.partition("base64,")[2])

        def answer(mark):
            text = json.dumps({"label": mark, "score": 0.5})
            return {
                "model": f"{body['model']}-2026-01-01",
                "choices": [{"message": {"content": f"```json\n{text}\n```"}}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 10},
                "prompt": prompt,
            }

        return await self._reply(request, image, answer)

    async def _embed(self, request):
        body = await request.json()
        url = body["messages"][0]["content"][-1]["image_url"]["url"]
        image = base64.b64decode(url.partition("base64,")[2])
        number = int(_mark(image).rpartition("-")[2])
        answer = {"data": [{"embedding": [3.0, 4.0 + number, 0.0]}], "usage": {"prompt_tokens": 7}}
        return await self._reply(request, image, lambda mark: answer)

    async def _parse(self, request):
        form = await request.post()
        image = form["document"].file.read()

        def answer(mark):
            element = {"category": "paragraph", "page": 1, "content": {"text": mark}}
            return {
                "api": "2.0",
                "model": f"{form['model']}-260930",
                "content": {"html": f"<p>{mark}</p>", "text": mark, "markdown": form["output_formats"]},
                "elements": [element, {**element, "category": "table"}],
                "usage": {"pages": 2},
            }

        return await self._reply(request, image, answer)

    async def _reply(self, request, image, make_answer):
        mark = _mark(image)
        self.sent.append((time.monotonic(), mark))
        self.keys.add(request.headers.get("Authorization"))
        n_asked = self.marks[mark] if "-" in mark and not mark.startswith("fine") else 1
        if self._is_too_fast():
            return web.json_response({"error": {"message": "slow down"}}, status=429)
        if self.status:
            long = "." * 130 if self.status == 402 else ""
            return web.json_response({"error": {"message": f"no{long}: {self.keys}"}}, status=self.status)
        what = mark.rpartition("-")[0]
        self.n_at_once += 1
        self.most_at_once = max(self.most_at_once, self.n_at_once)
        self.in_flight[mark] += 1
        try:
            if self._turns is None:
                self._turns = asyncio.Semaphore(self.capacity)
            async with self._turns:
                await asyncio.sleep(self.latency_s)
            return await getattr(self, f"_on_{what}")(request, mark, make_answer(mark), n_asked)
        finally:
            self.in_flight[mark] -= 1
            self.n_at_once -= 1

    def _is_too_fast(self):
        if self.max_per_s is None:
            return False
        now = self.sent[-1][0]
        return sum(at > now - 1 for at, _ in self.sent[-200:]) > self.max_per_s

    async def _on_fine(self, request, mark, answer, n_asked):
        text = json.dumps(answer)
        response = web.Response(text=text, content_type="application/json")
        await response.prepare(request)
        await response.write_eof()
        self.answered[mark] += 1
        self.texts[mark] = text
        return response

    async def _on_busy(self, request, mark, answer, n_asked):
        """429 with Retry-After once, then fine."""
        if n_asked == 1:
            return web.Response(status=429, headers={"Retry-After": "1"}, text="slow down")
        return await self._on_fine(request, mark, answer, n_asked)

    async def _on_crowded(self, request, mark, answer, n_asked):
        return web.Response(status=429, text="slow down")

    async def _on_flaky(self, request, mark, answer, n_asked):
        """500 once, then fine."""
        if n_asked == 1:
            return web.Response(status=500, text="oops")
        return await self._on_fine(request, mark, answer, n_asked)

    async def _on_down(self, request, mark, answer, n_asked):
        return web.Response(status=503, text="<html>oops</html>")

    async def _on_torn(self, request, mark, answer, n_asked):
        self.texts[mark] = json.dumps(answer)[:-9]
        return web.Response(text=self.texts[mark], content_type="application/json")

    async def _on_list(self, request, mark, answer, n_asked):
        self.texts[mark] = json.dumps([answer])
        return web.Response(text=self.texts[mark], content_type="application/json")

    async def _on_other(self, request, mark, answer, n_asked):
        """A good answer of another schema."""
        content = {"choices": [{"message": {"content": "a cat, I think"}}], "usage": {"pages": 0}}
        return web.json_response(content)

    async def _on_lone(self, request, mark, answer, n_asked):
        """A good answer by a model with half a surrogate pair for a name."""
        return await self._on_fine(request, mark, {**answer, "model": "\ud83d"}, n_asked)

    async def _on_drip(self, request, mark, answer, n_asked):
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        with suppress(ConnectionError):  # the client goes
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.02)
        return response

    async def _on_close(self, request, mark, answer, n_asked):
        request.transport.close()
        return web.Response()

    async def _on_never(self, request, mark, answer, n_asked):
        return web.json_response(
            {"error": {"message": f"no: {request.headers.get('Authorization')}"}}, status=400
        )

    async def _on_moved(self, request, mark, answer, n_asked):
        return web.Response(status=307, headers={"Location": "/v1/embeddings"})

    async def _on_patient(self, request, mark, answer, n_asked):
        """Fine once so many others have been answered as its number says."""
        while sum(self.answered.values()) < int(mark.rpartition("-")[2]):
            await asyncio.sleep(0.01)
        return await self._on_fine(request, mark, answer, n_asked)


def _mark(image: bytes) -> str:
    return image.rpartition(b"#")[2].decode()
