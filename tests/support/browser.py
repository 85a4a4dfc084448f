"""Headless Chromium by its DevTools protocol, for the time of a block. Source: chromedevtools.github.io/devtools-protocol."""

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
    "--autoplay-policy=no-user-gesture-required", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
    "--remote-debugging-port=0",
)  # fmt: skip
WAIT_S = 60.0
POLL_S = 0.05


class Browser:
    """One page of a browser with a profile of its own; `microphone` is a wav file that its fake device plays."""

    def __init__(self, microphone: Path | None = None) -> None:
        self._held = ExitStack()
        folder = Path(self._held.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        self.downloads = folder / "downloads"
        self.downloads.mkdir()
        profile = folder / "profile"
        flags = [*FLAGS, f"--user-data-dir={profile}", *([f"--use-file-for-fake-audio-capture={microphone}%noloop"] if microphone else [])]
        assert CHROMIUM is not None
        command = [CHROMIUM, *flags, "about:blank"]
        started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._process = self._held.enter_context(started)
        self._held.callback(self._process.terminate)
        port_file = profile / "DevToolsActivePort"
        end = time.monotonic() + WAIT_S
        while not (port_file.is_file() and port_file.read_text().count("\n")):
            assert self._process.poll() is None, "the browser has ended"
            assert time.monotonic() < end, "the browser did not start"
            time.sleep(POLL_S)
        port = port_file.read_text().split("\n")[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            page = next(one for one in json.load(answer) if one["type"] == "page")
        self._socket = self._held.enter_context(connect(page["webSocketDebuggerUrl"], max_size=None))
        self._numbers = itertools.count(1)
        self.errors: list[str] = []  # what the page's scripts threw
        self.send("Page.enable")
        self.send("Runtime.enable")
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))

    def send(self, method: str, **given: Any) -> dict[str, Any]:
        """The result of a command."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": given}))
        while True:
            told = json.loads(self._socket.recv(WAIT_S))
            if told.get("method") == "Runtime.exceptionThrown":
                details = told["params"]["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description") or details["text"])
            if told.get("id") == number:
                assert "error" not in told, told
                return dict(told["result"])

    def run(self, code: str) -> Any:
        """The value of an expression, a promise's once it is settled."""
        told = self.send("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def open(self, url: str) -> None:
        """Go to an address."""
        self.send("Page.navigate", url=url)
        self.until(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})")

    def until(self, code: str) -> Any:
        """Wait until an expression is true; its value."""
        end = time.monotonic() + WAIT_S
        while not (value := self.run(code)):
            assert time.monotonic() < end, f"never: {code}"
            time.sleep(POLL_S)
        return value

    def text(self, selector: str) -> str:
        """What an element shows."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def click(self, selector: str) -> None:
        """Click on an element as a person does, in its middle."""
        place = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def key(self, name: str) -> None:
        """Press a key."""
        code = {" ": "Space"}.get(name, name)
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=name, code=code, **({"text": name} if len(name) == 1 else {}))

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def drop(self, data: bytes, name: str) -> None:
        """Drop a file onto the page."""
        self.run(
            f"(() => {{ const bytes = Uint8Array.from(atob('{base64.b64encode(data).decode()}'), c => c.charCodeAt(0));"
            f" const t = new DataTransfer(); t.items.add(new File([bytes], {json.dumps(name)}));"
            " document.getElementById('drop').dispatchEvent(new DragEvent('drop', {bubbles: true, dataTransfer: t})); })()"
        )

    def downloaded(self, name: str) -> str:
        """The content of a file that is being downloaded."""
        end = time.monotonic() + WAIT_S
        while not (self.downloads / name).is_file():
            assert time.monotonic() < end, f"{name} was not downloaded"
            time.sleep(POLL_S)
        return (self.downloads / name).read_text()

    def look(self, *, width: int = 1000, height: int = 800, dark: bool = False, phone: bool = False) -> bytes:
        """A picture of the page."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if phone else 1, mobile=phone)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=scheme)
        self.run("new Promise(done => requestAnimationFrame(() => { window.dispatchEvent(new Event('resize')); done(); }))")
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()
