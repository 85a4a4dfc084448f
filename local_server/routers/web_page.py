"""The route `/`, a web page on which users can try the server. Its files are in `page/`. Knows no model."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

FILES = Path(__file__).parent.parent / "page"
# The page loads nothing from other hosts, except audio: it plays from the address that the user gives. It contacts that
# host only when the user plays it, so nothing else than a click makes the browser send a request there.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src http: https: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_page(app: FastAPI, has_keys: bool) -> None:
    """Add the routes of the page and of its files to an application. With `has_keys`, the page asks for a key."""
    html = (FILES / "index.html").read_text()
    if has_keys:
        html = html.replace('<label id="keyed" hidden>', '<label id="keyed">')

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> HTMLResponse:
        """Return the HTML of the page."""
        return HTMLResponse(html, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"})

    app.mount("/page", StaticFiles(directory=FILES))
