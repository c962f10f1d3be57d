"""The outermost layer: ``GET /health``, and one shape for every refusal."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REFUSALS = (400, 503)
# BentoML hides the words of every refusal from 500 on. The service raises one kind of them, a 503; what is
# wrong with its database stands in the log and in /health, and is no client's business.
HIDDEN = "An unexpected error has occurred"
UNAVAILABLE = "the online store is away right now: send it again"


class Edge:
    """ASGI middleware.

    BentoML knows only POST endpoints, so ``GET /health`` is answered here. It also words its refusals in
    three ways; whatever is answered with 400 or 503 leaves as ``{"error": "<one message>"}``, a 503 with
    ``Retry-After``.
    """

    def __init__(self, app: App, health: Callable[[], dict[str, Any] | None]) -> None:
        self._app = app
        self._health = health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == "/health" and scope["method"] in ("GET", "HEAD"):
            health = self._health()
            await _send_json(send, 503 if health is None else 200, health or {"status": "starting"})
        else:
            await self._app(scope, receive, _OneMessage(send))


class _OneMessage:
    """Passes everything through but the bodies of refusals, which it collects and words anew."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._refused: int | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] in REFUSALS:
            self._refused = message["status"]
        elif self._refused is None:
            await self._send(message)
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                told = message_of(self._body)
                if self._refused == 503 and told.startswith(HIDDEN):
                    told = UNAVAILABLE
                await _send_json(self._send, self._refused, {"error": told})


def message_of(body: bytes) -> str:
    """The one thing to say about a refused request: the first wrong field, if BentoML's body names one."""
    try:
        value = json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace") or "bad request"
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, dict):
        details = value.get("detail")
        if isinstance(details, list) and details:
            where = ".".join(str(part) for part in details[0].get("loc", ()))
            text = str(details[0].get("msg", "is wrong")).removeprefix("Value error, ")
            return f"{where}: {text}" if where else text
        if "error" in value:
            return str(value["error"])
    return str(value)


async def _send_json(send: Send, status: int, value: dict[str, Any]) -> None:
    body = json.dumps(value, ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
