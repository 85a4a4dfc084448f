"""The route `/`, a web page on which users can try the server. Its files are in `page/`. Knows no model."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

FILES = Path(__file__).parent.parent / "page"
# The page loads nothing from other hosts, except audio: it plays from the URL that the user gives.
POLICY = "default-src 'self'; img-src 'self' data:; media-src * blob:; connect-src 'self'; frame-ancestors 'none'"


def add_page(app: FastAPI) -> None:
    """Add the routes of the page and of its files to an application."""

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        """Return the HTML of the page."""
        return FileResponse(
            FILES / "index.html", headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        )

    app.mount("/page", StaticFiles(directory=FILES))
