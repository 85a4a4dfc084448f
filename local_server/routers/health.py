"""The routes `/hc`, which says whether the server is ready, and `/metrics`. Knows no other route."""

import asyncio

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST as METRICS_TYPE

from local_server.metrics import Metrics
from local_server.openapi.asr import HEALTH_RESPONSES
from local_server.state import ServerState


def add_health(app: FastAPI, state: ServerState, metrics: Metrics) -> None:
    """Add the routes `/hc` and `/metrics` to an application."""

    @app.get("/hc", responses=HEALTH_RESPONSES)
    async def health() -> Response:
        """Report whether the server is ready for requests."""  # for /docs only: LifespanApp answers requests
        status, content = state.health()
        return Response(status_code=status) if content is None else JSONResponse(content, status)

    @app.api_route("/metrics", methods=["GET", "HEAD"], include_in_schema=False)
    async def prometheus() -> Response:
        """Return all metrics in Prometheus' text format."""
        return Response(await asyncio.to_thread(metrics.text), media_type=METRICS_TYPE)
