"""`asr submit`: send the items of a manifest file to a queue endpoint, and write the answers as JSON lines.

A run that has ended for any reason can be repeated. An item that has an answer is not sent again, and a job that was
sent before is only polled for its answer. Knows no engine. The platform decides how many workers run.
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

from handler.audio.urls import public_url
from handler.errors import InvalidRequest, all_kinds
from handler.exit_codes import FAILED
from handler.runpod_sdk import import_sdk
from handler.schema.options import Options
from handler.validators import short_repr

POLL_INITIAL_S, POLL_MAX_S, POLL_GROWTH = 0.5, 10.0, 1.5  # intervals between polls of a job
BACK_OFF_INITIAL_S, BACK_OFF_MAX_S = 1.0, 60.0  # before a retry
COMPLETED = "COMPLETED"
FAILURE_STATUSES = ("FAILED", "TIMED_OUT", "CANCELLED")
RETRYABLE_CODES = {kind.code for kind in all_kinds() if kind.retryable}
ERROR_CODES = {kind.code for kind in all_kinds()}


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a manifest, which becomes one job."""

    line: int  # from 1
    payload: Mapping[str, Any]  # the job's input

    @property
    def key(self) -> str:
        """Return a hash of the payload, which identifies the item in every run."""
        return hashlib.sha256(json.dumps(self.payload, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def source(self) -> str:
        """Return the item's URL without the parts that may be credentials."""
        return public_url(str(self.payload.get("url", "")))


@dataclass(slots=True)
class Totals:
    """Counts, seconds and price, summed over the answers of one or more runs."""

    success_count: int = 0
    failure_count: int = 0
    audio_s: float = 0.0
    device_s: float = 0.0
    price: float | None = None
    count_by_code: dict[str, int] = field(default_factory=dict)  # number of errors by stable code

    def add(self, record: Mapping[str, Any]) -> None:
        """Add an answer, given as a record of the output file."""
        if "error" in record:
            self.failure_count += 1
            code = _code_of(record["error"]) or "unknown"
            self.count_by_code[code] = self.count_by_code.get(code, 0) + 1
            return
        account = _account_of(record.get("output"))
        self.success_count += 1
        self.audio_s += account.get("audio_s", 0.0)
        self.device_s += account.get("device_s", 0.0)
        if "price" in account:
            self.price = (self.price or 0.0) + account["price"]

    def table(self, elapsed_s: float) -> str:
        """Return the totals as a table with one figure per line. The run took `elapsed_s` seconds."""
        codes = "".join(f", {count} {code}" for code, count in sorted(self.count_by_code.items()))
        rows = [
            ("files transcribed", f"{self.success_count}"),
            ("files failed", f"{self.failure_count}{codes}"),
            ("audio", f"{self.audio_s / 3600:.3f} h"),
            ("device", f"{self.device_s / 3600:.3f} h"),
            ("time", f"{elapsed_s:.1f} s"),
            ("speed", f"{self.audio_s / max(elapsed_s, 1e-6):.1f} times real time"),
        ]
        if self.price is not None:
            per_hour = f", {self.price / self.audio_s * 3600:.6f} an hour of audio" if self.audio_s else ""
            rows.append(("price", f"{self.price:.6f}{per_hour}"))
        return "\n".join(f"{name:<20}{value}" for name, value in rows)


def read_manifest(path: Path, options: Mapping[str, Any]) -> list[Item]:
    """Return the items of a manifest. Each line is a URL, a JSON object with `url` and options, or blank.

    Each value in `options` that is not None applies to every item that does not set that option itself. Raises
    InvalidRequest with the number of a line that cannot be used.
    """
    defaults = {name: value for name, value in options.items() if value is not None}
    items = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"{path.name}: expected text in UTF-8; byte {exc.start + 1} is none of it") from None
    for number, text in enumerate(lines, 1):
        if line := text.strip():
            items.append(Item(number, {**defaults, **_parse_line(line, f"{path.name}:{number}")}))
    for item in items:
        try:
            Options.parse({name: value for name, value in item.payload.items() if name in Options.json_schema()})
        except InvalidRequest as exc:
            raise InvalidRequest(f"{path.name}:{item.line}: {exc.message}") from None
    return items


def _parse_line(line: str, position: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {"url": line}
    try:
        payload = json.loads(line)
    except (ValueError, RecursionError):
        message = f"{position}: expected an address or a JSON object; got {short_repr(line)}"
        raise InvalidRequest(message) from None
    if not isinstance(payload.get("url"), str):
        raise InvalidRequest(f"{position}: expected a JSON object with url, as a string")
    return dict(payload)


class Submission:
    """One run, which sends the items of a manifest to an endpoint and writes the answers."""

    def __init__(self, endpoint_id: str, key: str | None, output: Path, in_flight: int, retries: int) -> None:
        """Prepare a run.

        `key` is the API key, or None for the key in the SDK's configuration. At most `in_flight` jobs are unanswered at
        a time, and an item that fails is sent again at most `retries` times. Raises RuntimeError if `key` is None and
        the SDK has no key.
        """
        self.totals = Totals()  # of this run
        self.previous_totals = Totals()  # of all earlier runs
        self._endpoint_id = endpoint_id
        self._client = import_sdk().Endpoint(endpoint_id, api_key=key).rp_client
        self._output_path = output
        self._sent_path = output.with_name(output.name + ".sent")  # all jobs sent, so that none is sent twice
        self._in_flight = in_flight
        self._retries = retries
        self._lock = threading.Lock()
        self._stop_event = threading.Event()

    def stop(self) -> None:
        """Stop sending and polling. May be called from any thread."""
        self._stop_event.set()

    def run(self, items: list[Item]) -> None:
        """Send the items that have no answer yet, and write each answer as soon as it is there.

        Returns when every item has an answer, or after `stop`.
        """
        answered_keys = self._read_answered_keys()
        sent_jobs = {record["key"]: record["job"] for record in _read_records(self._sent_path)}
        unanswered: dict[str, Item] = {}
        for item in items:
            if item.key not in answered_keys:
                unanswered.setdefault(item.key, item)  # identical items are sent once
        remaining = iter(unanswered.values())
        total = len(answered_keys) + len(unanswered)
        self._output_path.parent.mkdir(parents=True, exist_ok=True)
        with (
            _open_to_append(self._output_path) as output,
            _open_to_append(self._sent_path) as sent_log,
            tqdm(desc="submit", total=total, initial=len(answered_keys), unit="file") as bar,
            ThreadPoolExecutor(self._in_flight, "submit") as pool,
        ):
            arguments = (remaining, sent_jobs, output, sent_log, bar)
            try:
                futures = [pool.submit(self._work, *arguments) for _ in range(self._in_flight)]
                for future in futures:
                    future.result()
            except BaseException:
                self.stop()
                raise

    def _read_answered_keys(self) -> set[str]:
        """Return the keys of the items that earlier runs have answered, and add these answers to `previous_totals`."""
        keys = set()
        for record in _read_records(self._output_path):
            if record["key"] not in keys:
                keys.add(record["key"])
                self.previous_totals.add(record)
        return keys

    def _work(
        self, remaining: Iterator[Item], sent_jobs: dict[str, str], output: TextIO, sent_log: TextIO, bar: Any
    ) -> None:
        """Process one item after another, until none is left or the run is stopped."""
        while not self._stop_event.is_set():
            with self._lock:
                item = next(remaining, None)
            if item is None:
                return
            record = self._process(item, sent_jobs.get(item.key), sent_log)
            if record is None:
                return
            with self._lock:
                output.write(json.dumps(record, ensure_ascii=False) + "\n")
                output.flush()
                self.totals.add(record)
                bar.update(1)
                bar.set_postfix(failed=self.totals.failure_count, refresh=False)

    def _process(self, item: Item, job_id: str | None, sent_log: TextIO) -> dict[str, Any] | None:
        """Return the output record of an item, after retries if needed. Return None if the run is stopped first.

        `job_id` is the job that an earlier run sent for the item, or None if no run sent one.
        """
        header = {"key": item.key, "line": item.line, "source": item.source}
        attempts = 0
        while True:
            job_id = job_id or self._send(item, sent_log)
            state = self._wait_for_end(job_id) if job_id else None
            if state is None:
                return None
            if state["status"] == COMPLETED and not _error_of(state):
                return {**header, "job": job_id, "output": state.get("output")}
            error = _error_of(state) or f"the platform says {state['status']}"
            code = _code_of(error)
            attempts += 1
            if attempts > self._retries or (code is not None and code not in RETRYABLE_CODES):
                return {**header, "job": job_id, "error": error}
            job_id = None
            if self._stop_event.wait(min(BACK_OFF_MAX_S, BACK_OFF_INITIAL_S * 2 ** (attempts - 1))):
                return None

    def _send(self, item: Item, sent_log: TextIO) -> str | None:
        """Send an item as a new job and return the job's id. Return None if the run is stopped first."""
        answer = self._request("POST", f"{self._endpoint_id}/run", {"input": dict(item.payload)})
        if answer is None:
            return None
        with self._lock:
            sent_log.write(json.dumps({"key": item.key, "job": answer["id"]}) + "\n")
            sent_log.flush()
        return str(answer["id"])

    def _wait_for_end(self, job_id: str) -> Mapping[str, Any] | None:
        """Poll a job until it ends and return its final state. Return None if the run is stopped first."""
        interval_s = POLL_INITIAL_S
        while (state := self._request("GET", f"{self._endpoint_id}/status/{job_id}")) is not None:
            if state["status"] == COMPLETED or state["status"] in FAILURE_STATUSES:
                return state
            if self._stop_event.wait(interval_s):
                return None
            interval_s = min(POLL_MAX_S, POLL_GROWTH * interval_s)
        return None

    def _request(self, method: str, path: str, payload: Any = None) -> Mapping[str, Any] | None:
        """Repeat a request until it is answered, and return the answer. Return None if the run is stopped first.

        Raises HTTPError if the platform refuses the request, and RuntimeError if it refuses the key.
        """
        from requests import HTTPError, RequestException

        delay_s = BACK_OFF_INITIAL_S
        while not self._stop_event.is_set():
            try:
                if method == "POST":
                    return dict(self._client.post(path, payload))
                return dict(self._client.get(path))
            except HTTPError as exc:
                status = exc.response.status_code
                if status == 404 and method == "GET":  # the platform deletes results after a while
                    return {"status": FAILURE_STATUSES[0], "error": "forgotten: the platform knows the job no more"}
                if status < 500 and status not in (408, 429):
                    self.stop()
                    raise
            except RequestException:
                pass
            except RuntimeError:  # the key is refused
                self.stop()
                raise
            self._stop_event.wait(delay_s)
            delay_s = min(BACK_OFF_MAX_S, 2 * delay_s)
        return None


def _open_to_append(path: Path) -> TextIO:
    """Open a file of lines for appending. If its last line was cut off, end that line first."""
    file = path.open("a+", encoding="utf-8")
    if file.tell():
        with path.open("rb") as existing:
            existing.seek(-1, 2)
            if existing.read(1) != b"\n":
                file.write("\n")
    return file


def _read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a file of JSON lines. Skip lines that are not JSON. Yield nothing if there is no file."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                continue


def _account_of(output: object) -> Mapping[str, Any]:
    """Return the account of an answer, which says how much audio, time and money was used.

    The answer of a streaming worker is a list of parts, and the last has the account. Return {} if there is no account.
    """
    answer = output[-1] if isinstance(output, list) and output else output
    account = answer.get("account") if isinstance(answer, Mapping) else None
    return account if isinstance(account, Mapping) else {}


def _error_of(state: Mapping[str, Any]) -> str | None:
    """Return the error in a job's status, as the platform reports it or as the job's own output has it, or None."""
    output = state.get("output")
    error = state.get("error") or (output.get("error") if isinstance(output, Mapping) else None)
    return str(error) if error else None


def _code_of(error: str) -> str | None:
    """Return the stable code at the beginning of an error. Return None if the error begins with no known code."""
    code = error.partition(":")[0]
    return code if code in ERROR_CODES else None


def submit(items: list[Item], submission: Submission) -> int:
    """Process a manifest, print the totals, and return the exit code.

    The exit code is FAILED if any item failed in this run or an earlier one, and 0 otherwise. The totals are printed
    after SIGINT as well, which is a KeyboardInterrupt.
    """
    started_at = time.monotonic()
    try:
        submission.run(items)
    finally:
        previous = submission.previous_totals
        if previous.success_count or previous.failure_count:
            print(f"{'answered before':<20}{previous.success_count}, failed {previous.failure_count}")
        print(submission.totals.table(time.monotonic() - started_at))
    return FAILED if submission.totals.failure_count or submission.previous_totals.failure_count else 0
