"""Speech whose words have known times: espeak-ng reports the sample at which it begins each word."""

import ctypes
from functools import cache
from typing import Any

import espeakng_loader
import numpy as np
import soxr

from handler.schema.window import SAMPLE_RATE
from tests.support.speech import Samples

_SYNCHRONOUS, _UTF8 = 2, 1
_WORD = 1
_LIST_END = 0

# Long sentences without commas: most words are spoken with no pause before them.
STORY = (
    "The old house at the end of the street had been empty for more than twenty years "
    "when the new owners came to open it.",
    "They walked from room to room and looked at the broken windows and the dust that covered every table and chair.",
    "In the kitchen they found a letter that somebody had left behind a long time ago under a heavy iron pot.",
    "It was written in a clear hand and it told the story of a man who had lost his way "
    "in the mountains during a winter storm.",
    "He had followed the river for three days without any food until he reached a small village near the border.",
    "The people of the village gave him bread and soup and a warm bed and asked him nothing about where he came from.",
    "When the snow was gone he thanked them and went back to the city to look for his brother and his two sisters.",
    "He never spoke about that winter again but every year he sent a box of oranges to the children of the village.",
    "The new owners of the house read the letter twice and then they put it back under "
    "the pot where they had found it.",
    "Later in the spring they painted all the walls white and planted apple trees along "
    "the path that leads to the gate.",
    "A neighbor told them that the last person who lived there had been a teacher of music at the school on the hill.",
    "Every evening she used to play the piano with the windows open so that the whole "
    "street could hear the same old songs.",
    "People would stop on their way home from work and stand for a while in the dark to listen before they went on.",
    "Nobody knows what became of the piano but some of the songs are still sung by the "
    "children when they walk to school.",
    "The owners decided to buy another piano and to put it in the same corner of the room "
    "that looks out over the garden.",
    "On the first warm night of the year they opened the windows again and somebody in the street began to sing along.",
)


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@cache
def _library() -> tuple[ctypes.CDLL, int]:
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, str(espeakng_loader.get_data_path()).encode(), 0)
    assert rate > 0
    return library, rate


@cache
def say_timed(text: str, voice: str = "en-us", words_per_minute: int = 160) -> tuple[Samples, list[tuple[str, float]]]:
    """Speech of a text, [n] at 16 kHz, and each word with the second at which it begins."""
    library, rate = _library()
    heard: list[np.ndarray] = []
    words: list[tuple[str, float]] = []

    def take(samples: Any, count: int, events: Any) -> int:
        if count > 0:
            heard.append(np.ctypeslib.as_array(samples, (count,)).copy())
        at = 0
        while samples and events[at].type != _LIST_END:
            event = events[at]
            if event.type == _WORD:
                words.append(
                    (
                        text[event.text_position - 1 : event.text_position - 1 + event.length],
                        event.audio_position / 1000,
                    )
                )
            at += 1
        return 0

    callback = _CALLBACK(take)
    library.espeak_SetSynthCallback(callback)
    library.espeak_SetVoiceByName(voice.encode())
    library.espeak_SetParameter(1, words_per_minute, 0)
    raw = text.encode()
    library.espeak_Synth(raw, len(raw) + 1, 0, 1, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    samples = np.concatenate(heard).astype(np.float32) / 32768
    return soxr.resample(samples, rate, SAMPLE_RATE), words
