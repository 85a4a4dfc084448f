"""A session of OpenAI's realtime API: what its client sends, and what it is told. Knows no connection."""

import asyncio
import binascii
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

from handler.audio.base64_text import decode_base64
from handler.errors import AsrError
from handler.live.live_session import MIN_COMMIT_S, LiveSession
from handler.settings import Settings
from handler.transcription.pipeline import Pipeline
from handler.validators import short_repr
from local_server.live.live_sessions import LiveSessions
from local_server.live.outbox import Outbox
from local_server.live.realtime_config import FORMATS, RealtimeConfig
from local_server.live.realtime_errors import RefusedEvent, error_of
from local_server.live.realtime_events import RealtimeEvents
from local_server.live.sample_stream import SampleStream

MAX_AUDIO_BYTES = 15 * 1024**2  # of one event
_EVENTS = ("session.update", "input_audio_buffer.append", "input_audio_buffer.commit", "input_audio_buffer.clear")
TELEPHONE_RATE = 8_000
