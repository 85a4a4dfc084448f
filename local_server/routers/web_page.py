"""The page to try the server: files beside this one. Knows no model."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

FILES = Path(__file__).parent.parent / "page"
# Nothing comes from elsewhere; audio may be played from where an address points to.
POLICY = "default-src 'self'; img-src 'self' data:; media-src * blob:; connect-src 'self'; frame-ancestors 'none'"


def add_page(app: FastAPI) -> None:
    """Add `/` and the page's files."""

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        """The page."""
        return FileResponse(FILES / "index.html", headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"})

    app.mount("/page", StaticFiles(directory=FILES))
