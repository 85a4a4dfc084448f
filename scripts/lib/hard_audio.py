"""Speech that is hard to read: over the telephone, in an echoing room, in noise, over music. Always the same."""

from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from handler.schema.window import SAMPLE_RATE
from scripts.lib.listening import Spoken, shuffled

Samples = NDArray[np.float32]
TELEPHONE_RATE = 8000
NOISE_DB, MUSIC_DB, LINE_DB = 5.0, 5.0, 20.0  # of the speech over what is added
ECHO_S = 0.6  # until the echo has fallen by 60 dB
CHORDS_HZ = ((220.0, 277.2, 329.6), (246.9, 311.1, 370.0), (196.0, 246.9, 293.7), (220.0, 261.6, 329.6))
CHORD_S = 0.8


def pink_noise(length: int, chance: np.random.Generator) -> Samples:
    """Return noise whose power falls by 3 dB an octave, as that of rooms and streets does."""
    spectrum = np.fft.rfft(chance.standard_normal(length))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    return np.asarray(np.fft.irfft(spectrum, length), np.float32)


def mixed(speech: Samples, other: Samples, decibels: float) -> Samples:
    """Return speech with something else, which is `decibels` quieter in the mean."""
    power = np.mean(speech**2) / max(float(np.mean(other**2)), 1e-12)
    return np.asarray(speech + other * np.sqrt(power / 10 ** (decibels / 10)), np.float32)


def in_noise(speech: Samples, chance: np.random.Generator) -> Samples:
    """Return speech in the noise of a street."""
    return mixed(speech, pink_noise(len(speech), chance), NOISE_DB)


def in_a_room(speech: Samples, chance: np.random.Generator) -> Samples:
    """Return speech with the echo of a room."""
    length = round(ECHO_S * SAMPLE_RATE)
    echo = chance.standard_normal(length) * 10 ** (-3 * np.arange(length) / length) / np.sqrt(length / 8)
    echo[0] = 1.0
    size = len(speech) + length
    sound = np.fft.irfft(np.fft.rfft(speech, size) * np.fft.rfft(echo, size), size)[: len(speech)]
    return np.asarray(sound, np.float32)


def by_telephone(speech: Samples, chance: np.random.Generator) -> Samples:
    """Return speech as a telephone line gives it: 8 kHz, µ-law (ITU-T G.711), some noise."""
    narrow = soxr.resample(mixed(speech, pink_noise(len(speech), chance), LINE_DB), SAMPLE_RATE, TELEPHONE_RATE)
    loudness = max(float(np.abs(narrow).max()), 1e-6)
    levels = np.sign(narrow) * np.log1p(255 * np.abs(narrow / loudness)) / np.log(256)
    levels = np.round(levels * 127) / 127
    linear = np.sign(levels) * np.expm1(np.abs(levels) * np.log(256)) / 255 * loudness
    return np.asarray(soxr.resample(linear, TELEPHONE_RATE, SAMPLE_RATE)[: len(speech)], np.float32)


def over_music(speech: Samples, chance: np.random.Generator) -> Samples:
    """Return speech over chords that follow each other."""
    seconds = np.arange(len(speech)) / SAMPLE_RATE
    music = np.zeros(len(speech))
    for number, chord in enumerate(CHORDS_HZ):
        is_played = (seconds / CHORD_S).astype(int) % len(CHORDS_HZ) == number
        fading = np.exp(-3 * (seconds % CHORD_S))
        for frequency in chord:
            for overtone in (1, 2, 3):
                music += is_played * fading * np.sin(2 * np.pi * overtone * frequency * seconds) / overtone
    return mixed(speech, np.asarray(music, np.float32), MUSIC_DB)


KINDS: dict[str, Callable[[Samples, np.random.Generator], Samples]] = {
    "telephone": by_telephone,
    "room": in_a_room,
    "noise": in_noise,
    "music": over_music,
}


def joined_hard(clips: list[Spoken], seconds: float, target: Path, kinds: tuple[str, ...] = tuple(KINDS)) -> Spoken:
    """Write clips in random order, each made hard in the next of the ways, to a file of about so many seconds."""
    chance = np.random.default_rng(0)
    texts: list[str] = []
    length = 0
    with soundfile.SoundFile(target, "w", SAMPLE_RATE, 1, "PCM_16") as file:
        for (clip, samples, pause), kind in zip(shuffled(clips), cycle(kinds), strict=False):
            if length + len(samples) + pause > seconds * SAMPLE_RATE:
                break
            padded = np.concatenate((samples, np.zeros(pause, np.float32)))
            hard = KINDS[kind](padded, chance)
            file.write(hard * min(1.0, 0.99 / max(float(np.abs(hard).max()), 1e-6)))
            length += len(padded)
            texts.append(clip.text)
    return Spoken(target, " ".join(texts), length / SAMPLE_RATE)
