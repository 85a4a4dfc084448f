"""What is asked of a GPU and in which order, noted by a stand-in for `torch.cuda`: no GPU is needed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from handler.engine import device as device_module
from handler.engine.runner import Runner
from handler.schema.window import Window
from handler.whisper import engine as engine_module
from handler.whisper.cuda_graphs import CudaGraphs, cuda_capture
from handler.whisper.encoding import EncodedAudio
from handler.whisper.engine import WhisperEngine
from handler.whisper.loading import load_engine
from handler.whisper.preparation import PreparedWindow, SideStream
from tests.conftest import settings
from tests.support.speech import FOX, PANGRAM, say


class Cuda:
    """Notes the calls that capture a graph. A graph that is replayed runs nothing."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.streams: list[Cuda.Stream] = []
        self.pools: set[int] = set()
        self.main = self.Stream(self, "main")

    class Stream:
        """A stream with a name."""

        def __init__(self, cuda: "Cuda", name: str) -> None:
            self.cuda = cuda
            self.name = name

        def wait_stream(self, other: "Cuda.Stream") -> None:
            self.cuda.calls.append(f"{self.name} waits for {other.name}")

        def wait_event(self, event: "Cuda.Event") -> None:
            self.cuda.calls.append(f"{self.name} waits for an event")

    class Event:
        """An event that has happened as soon as somebody looks."""

        def __init__(self, cuda: "Cuda") -> None:
            self.cuda = cuda

        def record(self) -> None:
            self.cuda.calls.append("event")

        def query(self) -> bool:
            return "event" in self.cuda.calls

    def new_stream(self) -> "Cuda.Stream":
        self.streams.append(self.Stream(self, f"side {len(self.streams)}"))
        return self.streams[-1]

    @contextmanager
    def on_stream(self, stream: "Cuda.Stream") -> Iterator[None]:
        self.calls.append(f"on {stream.name}")
        yield
        self.calls.append("on main")

    @contextmanager
    def capture(self, graph: object, pool: int, stream: "Cuda.Stream", capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        self.pools.add(pool)
        self.calls.append(f"capture on {stream.name}")
        yield


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    cuda = Cuda()

    class Graph:
        def replay(self) -> None:
            cuda.calls.append("replay")

    for name, value in {
        "Stream": cuda.new_stream,
        "stream": cuda.on_stream,
        "Event": lambda: cuda.Event(cuda),
        "current_stream": lambda: cuda.main,
        "set_stream": lambda stream: cuda.calls.append(f"back on {stream.name}"),
        "graph_pool_handle": lambda: 7,
        "CUDAGraph": Graph,
        "graph": cuda.capture,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return cuda


def test_all_sizes_are_captured_on_one_side_stream_and_in_one_pool_after_warming_up(cuda: Cuda) -> None:
    def step(size: int) -> Tensor:
        cuda.calls.append(f"step {size}")
        return torch.zeros(2, size)

    graphs = CudaGraphs(step, [1, 2], cuda_capture())
    assert (len(cuda.streams), cuda.pools) == (1, {7})
    warm_up = ["side 0 waits for main", "on side 0"]
    expected = []
    for size in (2, 1):
        expected += [*warm_up, f"step {size}", f"step {size}", "on main", "main waits for side 0"]
        expected += ["capture on side 0", f"step {size}", "back on main"]
    assert cuda.calls == expected
    assert graphs.run(1).shape == (2, 1)
    assert cuda.calls[len(expected) :] == ["replay"]


def test_the_encoder_runs_in_a_stream_of_its_own_and_its_memory_is_kept_for_the_steps(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = list[tuple[Tensor, str]]()
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: kept.append((tensor, stream.name)))
    side = SideStream()
    prepared = PreparedWindow(
        Window(0, say(FOX)),
        EncodedAudio(say(FOX), torch.zeros(5, 4), torch.zeros(10)),
        [[torch.zeros(1, 2, 5, 2), torch.zeros(1, 2, 5, 2)]],
    )

    def work() -> list[PreparedWindow]:
        cuda.calls.append("encode")
        return [prepared]

    assert not side.is_finished()
    known = torch.zeros(5, 4)
    side.start(work, [known])
    assert [name for tensor, name in kept if tensor is known] == ["side 0"]
    assert cuda.calls == ["side 0 waits for main", "on side 0", "encode", "event", "on main"]
    assert side.is_finished()
    assert side.result() == [prepared]
    assert cuda.calls[5:] == ["main waits for an event"]
    assert [name for _, name in kept[1:]] == ["main"] * 4


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Return the devices whose contexts the calling code is in."""
    stack: list[torch.device] = []

    @contextmanager
    def on_device(device: torch.device) -> Iterator[None]:
        stack.append(device)
        yield
        stack.pop()

    monkeypatch.setattr(engine_module, "on_device", on_device)
    monkeypatch.setattr("handler.whisper.loading.on_device", on_device)
    return stack


def checked(method: Callable[..., Any], current: list[torch.device], calls: list[str], name: str) -> Callable[..., Any]:
    """Wrap a method such that it notes its calls, and fails outside of the engine's device."""

    def call(*args: Any, **options: Any) -> Any:
        assert current, f"{name} runs on whatever device is the current one"
        calls.append(name)
        return method(*args, **options)

    return call


def test_everything_is_loaded_and_computed_on_the_device_that_was_chosen(
    tiny_folder: Path, current: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = list[str]()
    from handler.whisper import loading
    from handler.whisper.kv_cache import KVCache
    from handler.whisper.model import Decoder, Encoder, LogMel

    for owner, name in (
        (LogMel, "forward"),
        (Encoder, "forward"),
        (Decoder, "forward"),
        (Decoder, "logits"),
        (Decoder, "cross_kv"),
        (KVCache, "__init__"),
        (KVCache, "copy_text"),
        (KVCache, "clear_text"),
        (loading, "load"),
    ):
        label = f"{owner.__name__}.{name}"
        monkeypatch.setattr(owner, name, checked(getattr(owner, name), current, calls, label))
    engine = load_engine(tiny_folder, settings(batch_size=2))
    assert isinstance(engine, WhisperEngine)
    runner = Runner(engine)
    try:
        for future in [runner.submit("request", Window(0, say(text))) for text in (FOX, PANGRAM)]:
            assert future.result(60).segments
    finally:
        runner.close()
    engine.halve()
    assert {call.partition(".")[0] for call in calls} >= {"LogMel", "Encoder", "Decoder", "KVCache"}
    assert current == []


def test_a_gpu_becomes_the_current_one_and_a_processor_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    entered = list[torch.device]()

    @contextmanager
    def device(chosen: torch.device) -> Iterator[None]:
        entered.append(chosen)
        yield

    monkeypatch.setattr(torch.cuda, "device", device)
    with device_module.on_device(torch.device("cuda", 1)):
        pass
    with device_module.on_device(torch.device("cpu")):
        pass
    assert entered == [torch.device("cuda", 1)]
