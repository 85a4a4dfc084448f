"""A receiver of webhooks on loopback, which takes messages or refuses them."""

from dataclasses import dataclass
from typing import Any

from tests.support.loopback import QuietHandler, Site


@dataclass
class Message:
    """A message as it came."""

    headers: dict[str, str]
    body: str


class WebhookReceiver(Site):
    """Answers each message with the next of `statuses`, and then with 204. A status of 0 stands for no answer."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.messages: list[Message] = []
        super().__init__(_Handler)
        self.url = f"{self.url}/hook?token=secret"


class _Handler(QuietHandler):
    def __init__(self, receiver: WebhookReceiver, *args: Any) -> None:
        self._receiver = receiver
        super().__init__(*args)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._receiver.messages.append(Message({name.lower(): value for name, value in self.headers.items()}, body))
        status = self._receiver.statuses.pop(0) if self._receiver.statuses else 204
        if status == 0:
            self._receiver.released.wait()
            return
        self.send_response(status)
        if status in (301, 302, 307):
            self.send_header("Location", "http://169.254.169.254/")
        self.send_header("Content-Length", "0")
        self.end_headers()
