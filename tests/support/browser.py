"""Headless Chromium, driven over its DevTools protocol. Source: chromedevtools.github.io/devtools-protocol."""

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--remote-debugging-port=0",
    "--host-resolver-rules=MAP *.test 127.0.0.1",
)
WAIT_S = 60.0
POLL_S = 0.05
# How the browser refuses a command whose page another one took the place of. Source: Chromium, devtools_session.cc, and
# V8, v8-runtime-agent-impl.cc.
NAVIGATED = (
    "Inspected target navigated",
    "Execution context was destroyed",
    "Cannot find context",
    "Promise was collected",
)


class NavigatedError(Exception):
    """Another page took the place of the one that a command was for."""


class Browser:
    """One page of a browser with its own profile; its fake microphone plays the wav file `microphone`."""

    def __init__(self, microphone: Path | None = None) -> None:
        self._resources = ExitStack()
        folder = Path(self._resources.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        self.downloads = folder / "downloads"
        self.downloads.mkdir()
        profile = folder / "profile"
        self._process = self._start(profile, microphone)
        port = self._await_port(profile / "DevToolsActivePort")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as response:
            page = next(target for target in json.load(response) if target["type"] == "page")
        self._socket = self._resources.enter_context(connect(page["webSocketDebuggerUrl"], max_size=None))
        self._numbers = itertools.count(1)
        self.errors: list[str] = []  # what the page's scripts threw, and what its policy did not let it load
        self.requests: list[str] = []  # addresses that pages have requested
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))

    def _start(self, profile: Path, microphone: Path | None) -> "subprocess.Popen[bytes]":
        assert CHROMIUM is not None
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}"]
        if microphone:
            command.append(f"--use-file-for-fake-audio-capture={microphone}%noloop")
        command.append("about:blank")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._resources.enter_context(process)
        self._resources.callback(process.terminate)
        return process

    def _await_port(self, port_file: Path) -> str:
        """Wait until the browser has written the port of its protocol to a file, and return it."""
        deadline = time.monotonic() + WAIT_S
        while not (port_file.is_file() and port_file.read_text().count("\n")):
            assert self._process.poll() is None, "the browser has ended"
            assert time.monotonic() < deadline, "the browser did not start"
            time.sleep(POLL_S)
        return port_file.read_text().split("\n")[0]

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result.

        Raises:
            NavigatedError: Another page took the place of this one before the command was done.
        """
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(WAIT_S))
            self._note_event(message.get("method"), message.get("params", {}))
            if message.get("id") == number:
                if message.get("error", {}).get("message", "").startswith(NAVIGATED):
                    raise NavigatedError(message)
                assert "error" not in message, message
                return dict(message["result"])

    def _note_event(self, name: str | None, params: dict[str, Any]) -> None:
        if name == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif name == "Log.entryAdded" and params["entry"]["source"] == "security":
            self.errors.append(params["entry"]["text"])
        elif name == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def run(self, code: str) -> Any:
        """Return the value of an expression; of a promise, the value that it is fulfilled with."""
        result = self.send("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def open(self, url: str) -> None:
        """Load the page at a URL."""
        self.send("Page.navigate", url=url)
        self.wait_until(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})")

    def wait_until(self, code: str) -> Any:
        """Wait until an expression is true, in this page or in one that takes its place, and return its value."""
        deadline = time.monotonic() + WAIT_S
        while True:
            with suppress(NavigatedError):
                if value := self.run(code):
                    return value
            assert time.monotonic() < deadline, f"never true: {code}"
            time.sleep(POLL_S)

    def text(self, selector: str) -> str:
        """Return the text that an element shows."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def click(self, selector: str) -> None:
        """Click in the middle of an element, as a person does."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            with suppress(NavigatedError):  # the click was on a link or sent a form
                self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, name: str) -> None:
        """Press a key."""
        code = {" ": "Space"}.get(name, name)
        text = {"text": name} if len(name) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=name, code=code, **text)

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file in a file input."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def drop(self, data: bytes, name: str) -> None:
        """Drop a file onto the page."""
        encoded = base64.b64encode(data).decode()
        self.run(
            f"(() => {{ const bytes = Uint8Array.from(atob('{encoded}'), c => c.charCodeAt(0));"
            f" const t = new DataTransfer(); t.items.add(new File([bytes], {json.dumps(name)}));"
            " const event = new DragEvent('drop', {bubbles: true, dataTransfer: t});"
            " document.getElementById('drop').dispatchEvent(event); })()"
        )

    def read_download(self, name: str) -> str:
        """Wait for a download, and return the content of its file, which is removed."""
        deadline = time.monotonic() + WAIT_S
        while not (self.downloads / name).is_file():
            assert time.monotonic() < deadline, f"{name} was not downloaded"
            time.sleep(POLL_S)
        content = (self.downloads / name).read_text()
        (self.downloads / name).unlink()
        return content

    def screenshot(self, *, width: int = 1000, height: int = 800, dark: bool = False, phone: bool = False) -> bytes:
        """Return a PNG of the page on a screen of this size."""
        scale = 2 if phone else 1
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=scheme)
        resize = "window.dispatchEvent(new Event('resize'))"
        self.run(f"new Promise(done => requestAnimationFrame(() => {{ {resize}; done(); }}))")
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()
