"""WhisperLiveKit, a live server that others use, on the same weights: its process, and a client of its protocol."""

import asyncio
import json
import os
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import requests
from numpy.typing import NDArray
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from handler.schema.window import SAMPLE_RATE
from scripts.lib.bench_server import wait_until_ready
from scripts.lib.live_client import Heard, at_own_pace
from scripts.lib.peers import LOG, ROOT

REST_S = 300.0  # for its last words after the last of the audio
MULTILINGUAL_ALONE = "simulstreaming"  # which mistakes an English-only checkpoint in a file for a multilingual one
# The policies that it offers, each with the layout of the weights that it reads and its backend.
POLICIES = {"localagreement": ("ctranslate2", "faster-whisper"), MULTILINGUAL_ALONE: ("openai", "whisper")}


class WhisperLiveKit:
    """Its server in a process of its own, for the time of a block."""

    def __init__(self, policy: str, model_path: Path, warmup_file: Path, threads: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        address = ["--host", "127.0.0.1", "--port", str(port), "--pcm-input", "--lan", "en"]
        address += ["--warmup-file", str(warmup_file)]
        how = ["--backend-policy", policy, "--backend", POLICIES[policy][1], "--model-path", str(model_path)]
        self._command = [str(ROOT / ".peers/bin/whisperlivekit-server"), *address, *how]

    def __enter__(self) -> "WhisperLiveKit":
        with LOG.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)
        wait_until_ready(self._process, self._is_ready, LOG)
        return self

    def _is_ready(self) -> bool:
        try:
            return bool(requests.get(f"{self.url}/health", timeout=5).json()["ready"])
        except requests.RequestException:
            return False

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


async def speak(url: str, samples: NDArray[np.float32]) -> Heard:
    """Send samples at their own pace to the server at a web socket address, and return what was told.

    It sends all of its text again and again: lines, which are settled, and a guess behind them. A word is told when it
    is in the lines. It knows no turns.
    """
    heard = Heard()
    async with connect(f"{url}/asr", max_size=None, compression=None) as socket:
        began = time.perf_counter()

        async def send_all() -> None:
            await at_own_pace(samples, began, socket.send)
            await socket.send(b"")  # the end

        sender, text = asyncio.create_task(send_all()), ""
        try:
            async with asyncio.timeout(len(samples) / SAMPLE_RATE + REST_S):
                async for data in socket:
                    message = json.loads(data)
                    if message.get("type") == "ready_to_stop":
                        break
                    if message.get("error"):
                        heard.errors.append(message["error"])
                    text = " ".join(line["text"] or "" for line in message.get("lines") or ()) or text
                    told = text.split()
                    heard.words += [(word, time.perf_counter() - began) for word in told[len(heard.words) :]]
        except (TimeoutError, ConnectionClosed) as exc:
            heard.errors.append(str(exc) or type(exc).__name__)
        sender.cancel()
    heard.turns.append((text, time.perf_counter() - began))
    return heard
