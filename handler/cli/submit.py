"""`asr submit`: a manifest of addresses to a queue endpoint, its answers to JSON lines. Knows no engine; scaling is the platform's.

Whatever ends it, it can be run again: what has its answer is not sent again, what was sent is asked for.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from handler.audio.fetch import public_url
from handler.errors import InvalidRequest, all_kinds
from handler.runpod_sdk import import_sdk
from handler.schema.options import Options
from handler.validators import short_repr

POLL_S = (0.5, 10.0)  # between two questions about a job: at first, and at most
BACK_OFF_S = (1.0, 60.0)  # before something is tried once more: at first, and at most
DONE, LOST = "COMPLETED", ("FAILED", "TIMED_OUT", "CANCELLED")
RETRYABLE = {kind.code for kind in all_kinds() if kind.retryable}
KNOWN = {kind.code for kind in all_kinds()}


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a manifest."""

    line: int  # from 1
    given: Mapping[str, Any]  # the job's input

    @property
    def key(self) -> str:
        """What it is known by in another run."""
        return hashlib.sha256(json.dumps(self.given, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def source(self) -> str:
        """Its address, without what may be a credential."""
        return public_url(str(self.given.get("url", "")))


@dataclass(slots=True)
class Sums:
    """What a run has come to."""

    done: int = 0
    failed: int = 0
    audio_s: float = 0.0
    device_s: float = 0.0
    price: float | None = None
    codes: dict[str, int] = field(default_factory=dict)

    def add(self, record: Mapping[str, Any]) -> None:
        """Count an answer."""
        if "error" in record:
            self.failed += 1
            code = _code(record["error"]) or "unknown"
            self.codes[code] = self.codes.get(code, 0) + 1
            return
        account = _account(record.get("output"))
        self.done += 1
        self.audio_s += account.get("audio_s", 0.0)
        self.device_s += account.get("device_s", 0.0)
        if "price" in account:
            self.price = (self.price or 0.0) + account["price"]

    def table(self, seconds: float) -> str:
        """Cost and speed."""
        rows = [
            ("files transcribed", f"{self.done}"),
            ("files failed", f"{self.failed}" + "".join(f", {count} {code}" for code, count in sorted(self.codes.items()))),
            ("audio", f"{self.audio_s / 3600:.3f} h"),
            ("device", f"{self.device_s / 3600:.3f} h"),
            ("time", f"{seconds:.1f} s"),
            ("speed", f"{self.audio_s / max(seconds, 1e-6):.1f} times real time"),
        ]
        if self.price is not None:
            hours = f", {self.price / self.audio_s * 3600:.6f} an hour of audio" if self.audio_s else ""
            rows.append(("price", f"{self.price:.6f}{hours}"))
        return "\n".join(f"{name:<20}{value}" for name, value in rows)


def read_manifest(path: Path, options: Mapping[str, Any]) -> list[Item]:
    """The items of a manifest: a line is an address, or a JSON object with url and options; `options` hold for all that say nothing else.

    Raises InvalidRequest with the number of the first line that cannot be used.
    """
    given = {name: value for name, value in options.items() if value is not None}
    items = []
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            if line := text.strip():
                items.append(Item(number, {**given, **_input(line, f"{path.name}:{number}")}))
    for item in items:
        try:
            Options.parse({name: value for name, value in item.given.items() if name in Options.json_schema()})
        except InvalidRequest as exc:
            raise InvalidRequest(f"{path.name}:{item.line}: {exc.message}") from None
    return items


def _input(line: str, where: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {"url": line}
    try:
        found = json.loads(line)
    except ValueError:
        raise InvalidRequest(f"{where}: expected an address or a JSON object; got {short_repr(line)}") from None
    if not isinstance(found.get("url"), str):
        raise InvalidRequest(f"{where}: expected a JSON object with url, as a string")
    return dict(found)


class Submission:
    """A run of a manifest against an endpoint; `run` returns when everything has its answer, or after `stop`."""

    def __init__(self, endpoint: str, key: str | None, output: Path, in_flight: int, retries: int) -> None:
        """Raises RuntimeError where there is no `key`, and the SDK finds none either."""
        self.sums = Sums()  # of this run
        self.before = Sums()  # of runs before it
        self._endpoint = import_sdk().Endpoint(endpoint, api_key=key)
        self._client = self._endpoint.rp_client
        self._id = endpoint
        self._output = output
        self._sent_to = output.with_name(output.name + ".sent")  # job ids by key, so that no job is paid twice
        self._in_flight = in_flight
        self._retries = retries
        self._lock = threading.Lock()
        self._over = threading.Event()

    def stop(self) -> None:
        """Send nothing more and ask for nothing more; from any thread."""
        self._over.set()

    def run(self, items: list[Item]) -> None:
        """Send what has no answer yet, and write down what comes."""
        answered = self._answered_before()
        sent = {record["key"]: record["job"] for record in _lines(self._sent_to)}
        missing = list({item.key: item for item in reversed(items) if item.key not in answered}.values())[::-1]  # the same once
        left = iter(missing)
        self._output.parent.mkdir(parents=True, exist_ok=True)
        with (
            _continued(self._output) as output,
            _continued(self._sent_to) as log,
            tqdm(desc="submit", total=len(answered) + len(missing), initial=len(answered), unit="file") as bar,
            ThreadPoolExecutor(self._in_flight, "submit") as pool,
        ):
            try:
                work = [pool.submit(self._serve, left, sent, output, log, bar) for _ in range(self._in_flight)]
                for one in work:
                    one.result()
            except BaseException:
                self.stop()
                raise

    def _answered_before(self) -> set[str]:
        """The keys of what runs before this one have got answers to, counted."""
        found = set()
        for record in _lines(self._output):
            if record["key"] not in found:
                found.add(record["key"])
                self.before.add(record)
        return found

    def _serve(self, left: Iterator[Item], sent: dict[str, str], output: TextIO, log: TextIO, bar: Any) -> None:
        """One item after the other, until there are no more."""
        while not self._over.is_set():
            with self._lock:
                item = next(left, None)
            if item is None:
                return
            record = self._answered(item, sent.get(item.key), log)
            if record is None:
                return
            with self._lock:
                output.write(json.dumps(record, ensure_ascii=False) + "\n")
                output.flush()
                self.sums.add(record)
                bar.update(1)
                bar.set_postfix(failed=self.sums.failed, refresh=False)

    def _answered(self, item: Item, job: str | None, log: TextIO) -> dict[str, Any] | None:
        """The record of an item; None where the run is over before."""
        about = {"key": item.key, "line": item.line, "source": item.source}
        tries = 0
        while True:
            job = job or self._send(item, log)
            state = self._final(job) if job else None
            if state is None:
                return None
            if state["status"] == DONE and not _error(state):
                return {**about, "job": job, "output": state.get("output")}
            error = _error(state) or f"the platform says {state['status']}"
            code = _code(error)
            tries += 1
            if tries > self._retries or (code is not None and code not in RETRYABLE):
                return {**about, "job": job, "error": error}
            job = None
            if self._over.wait(min(BACK_OFF_S[1], BACK_OFF_S[0] * 2 ** (tries - 1))):
                return None

    def _send(self, item: Item, log: TextIO) -> str | None:
        """The id of a new job."""
        answer = self._asked("POST", f"{self._id}/run", {"input": dict(item.given)})
        if answer is None:
            return None
        with self._lock:
            log.write(json.dumps({"key": item.key, "job": answer["id"]}) + "\n")
            log.flush()
        return str(answer["id"])

    def _final(self, job: str) -> Mapping[str, Any] | None:
        """How a job has ended; None where the run is over before."""
        pause = POLL_S[0]
        while (state := self._asked("GET", f"{self._id}/status/{job}")) is not None:
            if state["status"] == DONE or state["status"] in LOST:
                return state
            if self._over.wait(pause):
                return None
            pause = min(POLL_S[1], 1.5 * pause)
        return None

    def _asked(self, method: str, path: str, data: Any = None) -> Mapping[str, Any] | None:
        """What the platform answers, however long it takes until it does; None where the run is over before."""
        from requests import HTTPError, RequestException

        pause = BACK_OFF_S[0]
        while not self._over.is_set():
            try:
                return dict(self._client.post(path, data) if method == "POST" else self._client.get(path))
            except HTTPError as exc:
                status = exc.response.status_code
                if status == 404 and method == "GET":  # results are kept for a while only
                    return {"status": LOST[0], "error": "forgotten: the platform knows the job no more"}
                if status < 500 and status not in (408, 429):
                    self.stop()
                    raise
            except RequestException:
                pass
            except RuntimeError:  # the key
                self.stop()
                raise
            self._over.wait(pause)
            pause = min(BACK_OFF_S[1], 2 * pause)
        return None


def _continued(path: Path) -> TextIO:
    """A file of lines opened to be written on; one whose last line was cut gets its end first."""
    file = path.open("a+", encoding="utf-8")
    if file.tell():
        with path.open("rb") as read:
            read.seek(-1, 2)
            if read.read(1) != b"\n":
                file.write("\n")
    return file


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file; a last line that was cut is passed over."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                continue


def _account(output: object) -> Mapping[str, Any]:
    """The account of an answer; of a stream's, the one of its last part."""
    last = output[-1] if isinstance(output, list) and output else output
    account = last.get("account") if isinstance(last, Mapping) else None
    return account if isinstance(account, Mapping) else {}


def _error(state: Mapping[str, Any]) -> str | None:
    """What a job failed with, where it did: the platform's own field, or the one of an answer."""
    output = state.get("output")
    found = state.get("error") or (output.get("error") if isinstance(output, Mapping) else None)
    return str(found) if found else None


def _code(error: str) -> str | None:
    """The stable code that an error begins with; None where it is none of this product's."""
    code = error.partition(":")[0]
    return code if code in KNOWN else None


def submit(items: list[Item], submission: Submission) -> int:
    """Run a manifest and print what it came to; the exit code says how it went: 1 where something failed, 130 where it was broken off."""
    began = time.monotonic()
    try:
        submission.run(items)
    except KeyboardInterrupt:
        return 130
    finally:
        if submission.before.done or submission.before.failed:
            print(f"{'answered before':<20}{submission.before.done}, failed {submission.before.failed}")
        print(submission.sums.table(time.monotonic() - began))
    return 1 if submission.sums.failed or submission.before.failed else 0
