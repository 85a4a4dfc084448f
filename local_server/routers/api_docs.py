"""The route `/docs`, which shows the schema of this server with Swagger UI. Knows no other route.

Swagger UI comes from the package `fastapi-swagger`, whose files are those of Swagger's own release, so that the page
loads nothing from other hosts. None of that package's code is used.
"""

from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

FILES = Path(__file__).parent.parent / "api_docs"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_api_docs(app: FastAPI) -> None:
    """Add the route of the page and those of its files to an application."""

    @app.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
    async def api_docs() -> FileResponse:
        """Return the HTML of the page."""
        return FileResponse(
            FILES / "index.html", headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        )

    app.mount("/docs/swagger", StaticFiles(directory=_swagger_files()))
    app.mount("/docs/files", StaticFiles(directory=FILES))


def _swagger_files() -> Path:
    """Return the folder of Swagger UI's files. Raises ModuleNotFoundError if the package is not installed."""
    spec = find_spec("fastapi_swagger")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("expected the package fastapi-swagger, which has the files of /docs")
    return Path(spec.origin).parent / "resources"
