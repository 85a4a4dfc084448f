"""RunPod's REST interface to an endpoint on loopback, in front of a queue that a worker serves."""

import json
import threading
from typing import Any

from tests.support.loopback import Loopback, QuietHandler
from tests.support.sls_queue import Queue

KEY = "rpa-hunter2"


class Endpoint:
    """`run` puts a job into the queue, `status` tells how it is. Each job is counted, and how many were open at once."""

    def __init__(self, queue: Queue) -> None:
        self.sent: list[dict[str, Any]] = []
        self.most_open = 0
        self.down = 0  # requests that are to be answered with 500
        lock = threading.Lock()
        endpoint = self

        class Handler(QuietHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if endpoint.down:
                    self._answer({})
                    return
                with lock:
                    name = f"job-{len(endpoint.sent)}"
                    endpoint.sent.append(body["input"])
                    queue.put(name, body["input"])
                    endpoint.most_open = max(endpoint.most_open, len(endpoint.sent) - len(queue.answers))
                self._answer({"id": name, "status": "IN_QUEUE"})

            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                if name not in queue.answers:
                    known = name.removeprefix("job-").isdigit() and int(name.removeprefix("job-")) < len(endpoint.sent)
                    self._answer({"id": name, "status": "IN_PROGRESS"}, 200 if known else 404)
                    return
                answer = queue.answers[name][-1]
                self._answer({"id": name, "status": "FAILED" if "error" in answer else "COMPLETED", **answer})

            def _answer(self, content: object, status: int = 200) -> None:
                if self.headers["Authorization"] != f"Bearer {KEY}":
                    status = 401
                elif endpoint.down:
                    endpoint.down -= 1
                    status = 500
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = Loopback(Handler)

    def environment(self) -> dict[str, str]:
        """What points the SDK here."""
        return {"RUNPOD_ENDPOINT_BASE_URL": f"{self._server.url}/v2", "RUNPOD_API_KEY": KEY}

    def __enter__(self) -> "Endpoint":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
