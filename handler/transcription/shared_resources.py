"""What all requests of a pipeline share. Knows no request and no way in."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from handler.audio.fetch import Fetcher
from handler.audio.process_pool import AudioProcessPool
from handler.engine.runner import Runner
from handler.schema.speakers import SpeakerModel
from handler.schema.window import Engine
from handler.settings import Settings
from handler.transcription.decode_turns import DecodeTurns
from handler.transcription.usage import Counters
from handler.transcription.window_cache import WindowCache
from handler.transcription.window_quota import WindowQuota


@dataclass(slots=True)
class SharedResources:
    """The resources that all requests of a pipeline share."""

    settings: Settings
    engine: Engine
    runner: Runner
    fetcher: Fetcher
    threads: ThreadPoolExecutor  # threads for blocking work
    decode_turns: DecodeTurns  # limits how many requests decode audio at the same time
    audio_processes: AudioProcessPool
    window_quota: WindowQuota
    window_cache: WindowCache | None  # holds windows that this process or earlier ones decoded
    model_info: Mapping[str, str]  # added to the account of every transcript
    speaker_model: SpeakerModel | None  # tells speakers apart
    speaker_threads: ThreadPoolExecutor | None  # the one thread in which it hears recordings
    live_speaker_threads: ThreadPoolExecutor | None  # and the one in which it hears live speech
    cold_start: Callable[[], dict[str, float] | None]
    counters: Counters
    decoded_s: float = 0.0  # seconds of audio in all windows that the device has decoded
