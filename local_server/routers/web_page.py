"""The route `/`, a web page on which users can try the server. Its files are in `page/`. Knows no model."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

FILES = Path(__file__).parent.parent / "page"
# The page loads nothing from other hosts, except audio: it plays from the address that the user gives. It contacts that
# host only when the user plays it, so nothing else than a click makes the browser send a request there.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src http: https: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_page(app: FastAPI) -> None:
    """Add the routes of the page and of its files to an application."""

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> FileResponse:
        """Return the HTML of the page."""
        return FileResponse(
            FILES / "index.html", headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        )

    app.mount("/page", StaticFiles(directory=FILES))
