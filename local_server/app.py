"""Build the application from routes, error handlers and middleware. Does not know decoding.

No handler blocks the event loop.
"""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp

from handler import __version__, logs
from handler.errors import AsrError, Internal, InvalidRequest
from local_server.background.background_jobs import BackgroundJobs
from local_server.errors import error_response
from local_server.live.client_secrets import ClientSecrets
from local_server.live.live_sessions import LiveSessions
from local_server.metrics import Metrics
from local_server.middleware.access import AccessMiddleware
from local_server.middleware.allowed_hosts import AllowedHostsMiddleware
from local_server.middleware.cross_origin import CrossOriginMiddleware
from local_server.middleware.lingering_close import LingeringCloseMiddleware
from local_server.routers.api_docs import add_api_docs
from local_server.routers.asr import add_asr
from local_server.routers.deepgram import add_deepgram
from local_server.routers.health import add_health
from local_server.routers.jobs import add_jobs
from local_server.routers.openai import add_openai
from local_server.routers.realtime import add_realtime
from local_server.routers.web_page import add_page
from local_server.state import ServerState


def make_app(state: ServerState) -> ASGIApp:
    """Return the application with all routes and middleware. The application neither builds nor closes the pipeline."""
    settings, metrics, client_secrets = state.settings, Metrics(state), ClientSecrets()
    if not settings.api_keys:
        logs.warning("server_is_open", expected="API_KEY, where others can reach this server")
    app: ASGIApp = CrossOriginMiddleware(
        _routes(state, metrics, client_secrets), settings.cors_origins, has_keys=bool(settings.api_keys)
    )
    if settings.allowed_hosts:
        app = AllowedHostsMiddleware(app, settings.allowed_hosts)
    app = LingeringCloseMiddleware(AccessMiddleware(app, settings.api_keys, metrics, client_secrets))
    if settings.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    return app


def _routes(state: ServerState, metrics: Metrics, client_secrets: ClientSecrets) -> FastAPI:
    # FastAPI's own pages load scripts from other hosts, and its redirects lead to the Host that the client names.
    app = FastAPI(
        title="asr-handler",
        version=__version__,
        description="Speech to text.",
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(AsrError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_crash)

    add_health(app, state, metrics)
    add_asr(app, state)
    state.jobs = BackgroundJobs(state.settings)
    add_jobs(app, state, state.jobs)
    add_openai(app, state)
    state.sessions = LiveSessions(state.settings)
    add_realtime(app, state, state.sessions, client_secrets)
    add_deepgram(app, state, state.sessions)
    add_api_docs(app)
    add_page(app, has_keys=bool(state.settings.api_keys))
    return app


async def _on_error(request: Request, exc: Any) -> Response:
    request.scope["asr_code"] = exc.code
    logs.info("request_refused", id=request.scope.get("asr_request_id"), path=request.url.path, **exc.as_dict())
    return error_response(exc, request.url.path)


async def _on_invalid(request: Request, exc: Any) -> Response:
    return await _on_error(request, InvalidRequest(str(exc.errors()[0].get("msg", "the request is malformed"))))


async def _on_http(request: Request, exc: Any) -> Response:
    """Answer an error of the routing itself, such as an unknown path or a wrong method."""
    error = InvalidRequest(f"{request.method} {request.url.path}: {exc.detail}")
    response = error_response(error, request.url.path)
    response.status_code = exc.status_code
    response.headers.update(exc.headers or {})
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:  # the routing knows only the first route of a path
        routes = [route for route in request.app.routes if isinstance(route, Route)]
        methods = {
            method for route in routes if route.path_regex.match(request.url.path) for method in route.methods or ()
        }
        response.headers["Allow"] = ", ".join(sorted(methods))
    return response


async def _on_crash(request: Request, exc: Exception) -> Response:
    """Answer an unexpected exception. Starlette raises it again, and uvicorn logs it with its traceback."""
    return error_response(Internal(f"a fault of this server: {type(exc).__name__}"), request.url.path)
