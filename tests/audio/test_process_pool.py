"""Files are decoded in processes of their own: what a file does to its process, it does to itself alone."""

import io
import itertools
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from handler.audio import process_worker
from handler.audio.audio_process import AudioProcess
from handler.audio.media_report import DecodeOptions
from handler.audio.process_messages import (
    MAX_DESCRIPTORS,
    MAX_MESSAGE_BYTES,
    Disconnected,
    new_channel,
    receive,
    send,
)
from handler.audio.process_pool import AudioProcessPool, shared_pool
from handler.audio.spool import Spool
from handler.audio.vad import VoiceActivity
from handler.errors import Cancelled, CorruptMedia
from handler.schema.window import SAMPLE_RATE, Samples
from tests.support.asking import growing_file
from tests.support.processes import children_of
from tests.support.serving import wait_until
from tests.support.speech import FOX, say, wav

SECONDS = 600  # of a file that is still being decoded when a test looks
LONG = wav(np.zeros(SECONDS * SAMPLE_RATE, np.float32))


END = b'"warnings": [], "cpu_s": 0.0, "vad_s": 0.0}'
LIES = (
    b"",
    b"[]",
    b"{}",
    b"[" * 60_000,
    b"\xff" * 8,
    b'{"block": [100000000, 8], "speech": [0, 0, 0, 0, 0, 0, 0, 0], "duration": null, ' + END,
    b'{"block": [-1, 1], "speech": [0], "duration": null, ' + END,
    b'{"block": [1, 0], "speech": [], "duration": null, ' + END,
    b'{"block": [16000, 1], "speech": [0], "duration": null, ' + END,  # the memory holds fewer samples
    b'{"block": "all", "speech": [0], "duration": null, ' + END,
    b'{"block": [0, 1], "duration": null, ' + END,
    b'{"block": [0, 1], "speech": [0, 0], "duration": null, ' + END,
    b'{"block": [0, 1], "speech": "much", "duration": null, ' + END,
    b'{"block": [0, 1], "speech": [1], "duration": null, ' + END,  # of no samples
    b'{"end": true, "duration": 1.0, "warnings": [], "cpu_s": 1.0, "vad_s": 2.0}',
    b'{"end": true, "duration": 1.0, "warnings": [], "cpu_s": 1.0, "vad_s": -1.0}',
    b'{"block": [0, 1], "speech": [100000000], "duration": null, ' + END,
    b'{"end": true, "duration": "long", ' + END,
    b'{"end": true, "duration": NaN, ' + END,
    b'{"end": true, "duration": 1.0, "warnings": [1], "cpu_s": 0.0, "vad_s": 0.0}',
    b'{"bytes": "many"}',
    b'{"bytes": 1e999}',
    b'{"error": ["internal"], "message": {}, "duration": null, ' + END,
    b'{"error": "device_lost", "message": "", "duration": null, ' + END,
    b'{"error": "out_of_memory", "message": "", "duration": null, ' + END,
    b'{"block": [4000, 2], "duration": null, ' + END,  # two channels, although none were asked for apart
)


@pytest.fixture
def pool() -> Iterator[AudioProcessPool]:
    pool = AudioProcessPool()
    yield pool
    pool.close()


def tone(seconds: float) -> Samples:
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)


def process(pool: AudioProcessPool, spool: Spool, **options: object) -> AudioProcess:
    return AudioProcess(pool, spool, DecodeOptions(**options), nullcontext)  # type: ignore[arg-type]


def decode(pool: AudioProcessPool, data: bytes) -> Samples:
    with growing_file(data) as spool:
        return np.concatenate(list(process(pool, spool).blocks()))[:, 0]


def supervisor_of(pool: AudioProcessPool) -> int:
    assert pool._supervisor is not None
    return pool._supervisor.pid


def test_a_file_becomes_the_samples_that_went_into_it() -> None:
    samples = tone(3.0)
    np.testing.assert_allclose(decode(shared_pool(), wav(samples)), samples, atol=1e-4)


def test_a_file_that_lies_partly_on_disk_becomes_the_same_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = tone(3.0)
    monkeypatch.setattr("handler.audio.spool.IN_MEMORY", 1000)  # bytes
    np.testing.assert_allclose(decode(shared_pool(), wav(samples)), samples, atol=1e-4)


def test_bytes_that_arrive_later_are_waited_for() -> None:
    data = wav(tone(3.0))
    waits = threading.Semaphore(0)

    class Waiting(nullcontext[None]):
        def __enter__(self) -> None:
            waits.release()

    with Spool(len(data)) as spool:
        decoder = AudioProcess(shared_pool(), spool, DecodeOptions(), Waiting)
        count = [0]
        thread = threading.Thread(target=lambda: count.append(sum(len(block) for block in decoder.blocks())))
        thread.start()
        for start in range(0, len(data), 30_000):
            waits.acquire()
            spool.write(data[start : start + 30_000])
        spool.finish()
        thread.join()
    assert count[-1] == 3 * SAMPLE_RATE


def test_bytes_that_drip_in_do_not_end_the_time_without_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    data = wav(tone(3.0), format="FLAC")
    clock = itertools.count(0.0, 0.5)  # each look at it takes half a second
    monkeypatch.setattr("handler.audio.audio_process.time", SimpleNamespace(monotonic=lambda: next(clock)))
    num_waits = 0
    starved_s = list[float]()

    class Dripping(nullcontext[None]):
        def __enter__(self) -> None:
            nonlocal num_waits
            num_waits += 1
            starved_s.append(decoder.starved_s)
            if num_waits <= 20:
                spool.write(data[num_waits - 1 : num_waits])
            elif num_waits == 21:
                spool.write(data[20:])
            else:
                spool.finish()

    with Spool(len(data)) as spool:
        decoder = AudioProcess(shared_pool(), spool, DecodeOptions(), Dripping)
        next(blocks := decoder.blocks())
        assert starved_s[20] >= 10
        assert decoder.starved_s == 0
        list(blocks)


def test_a_process_that_is_killed_fails_its_own_file_and_no_other(pool: AudioProcessPool) -> None:
    with growing_file(LONG) as first, growing_file(LONG) as second:
        victim, bystander = process(pool, first).blocks(), process(pool, second).blocks()
        next(victim)
        (victim_pid,) = children_of(supervisor_of(pool))
        count = len(next(bystander))
        os.kill(victim_pid, signal.SIGKILL)
        with pytest.raises(CorruptMedia):
            list(victim)
        count += sum(len(block) for block in bystander)
    assert count == SECONDS * SAMPLE_RATE


def test_a_supervisor_that_is_killed_is_replaced(pool: AudioProcessPool) -> None:
    with growing_file(LONG) as spool:
        bystander = process(pool, spool).blocks()
        count = len(next(bystander))
        os.kill(supervisor_of(pool), signal.SIGKILL)
        assert len(decode(pool, wav(tone(1.0)))) == SAMPLE_RATE
        count += sum(len(block) for block in bystander)
    assert count == SECONDS * SAMPLE_RATE


def await_end(descriptor: int) -> bool:
    """Wait until the process of a descriptor has ended, and return whether it has within a minute."""
    ready, _, _ = select.select([descriptor], [], [], 60)
    os.close(descriptor)
    return bool(ready)


def test_closing_ends_the_process_and_cancels_its_reader(pool: AudioProcessPool) -> None:
    with growing_file(LONG) as spool:
        decoder = process(pool, spool)
        blocks = decoder.blocks()
        next(blocks)
        (pid,) = children_of(supervisor_of(pool))
        descriptor = os.pidfd_open(pid)
        decoder.close()
        with pytest.raises(Cancelled):
            list(blocks)
    assert await_end(descriptor)


def test_a_reader_that_is_left_early_ends_the_process(pool: AudioProcessPool) -> None:
    with growing_file(LONG) as spool:
        blocks = process(pool, spool).blocks()
        next(blocks)
        (pid,) = children_of(supervisor_of(pool))
        descriptor = os.pidfd_open(pid)
        blocks.close()
    assert await_end(descriptor)


def test_no_secret_is_in_the_environment_of_the_processes(
    pool: AudioProcessPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "a-secret")
    with growing_file(LONG) as spool:
        blocks = process(pool, spool).blocks()
        next(blocks)
        pids = [supervisor_of(pool), *children_of(supervisor_of(pool))]
        assert len(pids) == 2
        for pid in pids:
            assert b"a-secret" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_a_process_has_limits_on_memory_and_processor_time(pool: AudioProcessPool) -> None:
    with growing_file(LONG) as spool:
        blocks = process(pool, spool).blocks()
        next(blocks)
        (pid,) = children_of(supervisor_of(pool))
        limits = Path(f"/proc/{pid}/limits").read_text()
    lines = {line[:26].strip(): line[26:].split() for line in limits.splitlines()}
    assert int(lines["Max address space"][0]) == process_worker.MAX_MEMORY_BYTES
    assert int(lines["Max cpu time"][0]) < 60
    assert lines["Max core file size"][0] == "0"


class Liar(AudioProcessPool):
    """Gives a file to a thread that sends one message, in the place of an audio process, and then a good end."""

    def __init__(self, message: bytes, samples: bytes = b"", descriptors: int = 0) -> None:
        super().__init__()
        self._message = message
        self._samples = samples
        self._descriptors = descriptors

    def fork(self, channel: socket.socket) -> int:
        threading.Thread(target=self._lie, args=(os.dup(channel.fileno()),)).start()
        return 0

    def _lie(self, descriptor: int) -> None:
        with socket.socket(fileno=descriptor) as channel:
            _, descriptors = receive(channel, MAX_DESCRIPTORS)
            os.pwrite(descriptors[0], self._samples, 0)
            for given in descriptors:
                os.close(given)
            with suppress(OSError):  # the other end has heard enough
                socket.send_fds(channel, [self._message], [channel.fileno()] * self._descriptors)
                channel.send(b'{"end": true, "duration": 1.0, ' + END)
                while channel.recv(MAX_MESSAGE_BYTES):
                    pass

    def end(self, pid: int) -> None:
        """Do nothing: there is no process."""

    def signal_of(self, pid: int) -> str:
        return "none"


@pytest.mark.parametrize("message", LIES)
def test_nothing_that_a_process_sends_can_harm_the_serving_process(message: bytes) -> None:
    """Whoever has taken over an audio process can send what they like. It fails the file of this process alone."""
    with growing_file(b"?") as spool, pytest.raises(CorruptMedia) as caught:
        list(process(Liar(message), spool).blocks())
    assert type(caught.value) is CorruptMedia


@pytest.mark.parametrize("sample", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(sample: float) -> None:
    block = np.array([[0.5], [sample]], np.float32)
    message = b'{"block": [2, 1], "speech": [0], "duration": null, ' + END
    with growing_file(b"?") as spool, pytest.raises(CorruptMedia):
        list(process(Liar(message, block.tobytes()), spool).blocks())


def test_a_process_that_keeps_what_it_knows_of_speech_is_refused() -> None:
    """Samples without probabilities wait for them, in the memory of the serving process."""
    samples = np.zeros(200_000, np.float32)
    message = b'{"block": [200000, 1], "speech": [0], "duration": null, ' + END
    with growing_file(b"?") as spool, pytest.raises(CorruptMedia):
        list(process(Liar(message, samples.tobytes()), spool).blocks())


@pytest.mark.parametrize("probability", [-0.1, 1.1, np.nan])
def test_probabilities_that_are_none_are_refused(probability: float) -> None:
    numbers = np.array([0.5, 0.5, probability], np.float32)
    message = b'{"block": [2, 1], "speech": [1], "duration": null, ' + END
    with growing_file(b"?") as spool, pytest.raises(CorruptMedia):
        list(process(Liar(message, numbers.tobytes()), spool).blocks())


@pytest.mark.parametrize("listen_from", [0, 20_000, 10**6])
def test_speech_is_detected_in_the_audio_process_as_it_would_be_here(pool: AudioProcessPool, listen_from: int) -> None:
    both = np.stack([np.pad(say(FOX), (0, 9_000)), np.pad(say(FOX), (9_000, 0))], 1)
    file = io.BytesIO()
    soundfile.write(file, both, SAMPLE_RATE, subtype="FLOAT", format="WAV")
    received: list[list[NDArray[np.float32]]] = [[], []]
    with growing_file(file.getvalue()) as spool:
        decoder = process(pool, spool, split=True, listen_from=listen_from)
        for block in decoder.blocks():
            for parts, probabilities in zip(received, decoder.speech, strict=True):
                parts.append(probabilities)
                assert not np.shares_memory(probabilities, block)  # who keeps the one would keep the other
        assert 0 <= decoder.vad_s <= decoder.cpu_s
    for parts, samples in zip(received, both[listen_from:].T, strict=True):
        detector = VoiceActivity()
        expected = np.concatenate((detector.push(samples), detector.finish()))
        assert np.concatenate(parts) == pytest.approx(expected, abs=1e-4)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_that_a_process_sends_are_not_kept(pool: AudioProcessPool) -> None:
    before = open_descriptors()
    with growing_file(b"?") as spool:
        list(process(Liar(b'{"state": true}', descriptors=4), spool).blocks())
    wait_until(lambda: open_descriptors() == before)  # the liar's thread closes its end a little later


def test_a_process_that_cannot_prepare_itself_says_why(
    pool: AudioProcessPool, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = new_channel()
    with ours:
        with theirs:
            pool.fork(theirs)
        send(ours, {"options": {"unknown": 1}, "size": 1, "head_bytes": 1, "has_ended": True}, [ours.fileno()] * 2)
        message, _ = receive(ours)
    assert "unknown" in message["crash"]


def test_signals_to_the_group_leave_decoding_to_those_who_finish_their_work(pool: AudioProcessPool) -> None:
    with growing_file(LONG) as spool:
        blocks = process(pool, spool).blocks()
        count = len(next(blocks))
        for pid in (supervisor_of(pool), *children_of(supervisor_of(pool))):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(pid, number)
        count += sum(len(block) for block in blocks)
    assert count == SECONDS * SAMPLE_RATE


def test_a_channel_whose_other_end_is_gone_says_so() -> None:
    ours, theirs = new_channel()
    theirs.close()
    with ours, pytest.raises(Disconnected):
        send(ours, {})
