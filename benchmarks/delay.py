"""The tests' S3 server with every request held back for a while, as a network between machines does."""

from __future__ import annotations

import asyncio
from typing import Any

from nanio.app import build_app

__all__ = ["SECONDS", "build"]

SECONDS = 0.02


def build() -> Any:
    """The application, for uvicorn."""
    server = build_app()

    async def delayed(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await asyncio.sleep(SECONDS)
        await server(scope, receive, send)

    return delayed
