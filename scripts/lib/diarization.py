"""Diarization error rates of conversations made of real voices. See scripts/diarization."""

import argparse
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import soxr

from handler.audio.chunking import SPEECH_ON
from handler.audio.silero import FRAME
from handler.audio.vad import VoiceActivity
from handler.schema.speakers import SpeakerCount, SpeakerModel, Turn
from handler.schema.window import SAMPLE_RATE
from handler.startup.speaker_loader import load_speakers
from handler.timeline import Timeline
from scripts.lib.hard_audio import by_telephone
from tests.conftest import settings
from tests.support.conversations import Conversation, Samples, Utterance, assemble, error_rates, trimmed, without_pauses

PEOPLE = (1, 2, 3, 4, 6)
CONVERSATION_S = 60.0
CLIP_S = (1.2, 12.0)  # of the recordings that are taken
TURN_S = (1.2, 6.0)  # a turn has as many recordings as it takes to last that long, drawn for each turn
BREATH_S, PAUSE_S, OVERLAP_S = (0.1, 0.4), (0.1, 1.2), (0.2, 0.8)  # in a turn, between turns, of two turns
OVERLAPS = 0.1  # the share of turns that begin while somebody speaks
SUFFIXES = (".flac", ".gsm", ".wav")
MIN_SPEECH = 0.6  # the share of a recording in which somebody speaks: the prompts of a telephone system have beeps too
MARGIN_S = 0.3  # of silence around what a live session hears at once
ANY = SpeakerCount()


@dataclass(frozen=True, slots=True)
class Score:
    """What one conversation shows. Errors are shares of the time that people speak."""

    error: float
    confusion: float  # which is part of the error
    is_count_right: bool


def clips_of(folder: Path, half: int) -> list[Samples]:
    """Return every second recording of speech in a folder, from the first or the second one on."""
    clips = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES):
        with av.open(str(path), format="gsm" if path.suffix == ".gsm" else None) as container:
            rate = container.streams.audio[0].rate
            resampler = av.AudioResampler("fltp", "mono", rate)
            frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        sound = np.concatenate([frame.to_ndarray()[0] for frame in frames])
        samples: Samples = soxr.resample(sound, rate, SAMPLE_RATE).astype(np.float32)
        if CLIP_S[0] <= len(samples) / SAMPLE_RATE <= CLIP_S[1] and samples.any():
            clip = trimmed(samples)
            if _is_speech(clip):
                clips.append(clip)
    return clips[half::2]


def _is_speech(samples: Samples) -> bool:
    activity = VoiceActivity()
    probabilities = np.concatenate((activity.push(samples), activity.finish()))
    return float((probabilities > SPEECH_ON).sum()) * FRAME >= MIN_SPEECH * len(samples)


def conversations(clips: Mapping[str, Sequence[Samples]], people: int, number: int) -> Iterator[Conversation]:
    """Return conversations of so many people, always the same ones for the same names."""
    chance = random.Random(people)
    groups = list(combinations(sorted(clips), people))
    chance.shuffle(groups)
    for index in range(number):
        yield assemble(_utterances([clips[name] for name in groups[index % len(groups)]], chance))


def _utterances(voices: Sequence[Sequence[Samples]], chance: random.Random) -> Iterator[Utterance]:
    """Let people speak in random order, everybody once first."""
    decks = [chance.sample(list(voice), len(voice)) for voice in voices]
    order = chance.sample(range(len(voices)), len(voices))
    seconds, speaker = 0.0, order[-1]
    while order or seconds < CONVERSATION_S:
        others = [other for other in range(len(voices)) if other != speaker]
        speaker = order.pop(0) if order else chance.choice(others or [0])
        until = seconds + chance.uniform(*TURN_S)
        while seconds < until:
            samples = decks[speaker].pop(0)
            decks[speaker].append(samples)
            seconds += len(samples) / SAMPLE_RATE
            pause_s = chance.uniform(*BREATH_S) if seconds < until else _pause_behind_turn(chance)
            yield Utterance(speaker, samples, pause_s)
        seconds += pause_s


def _pause_behind_turn(chance: random.Random) -> float:
    return -chance.uniform(*OVERLAP_S) if chance.random() < OVERLAPS else chance.uniform(*PAUSE_S)


def load_model(cache_dir: Path) -> SpeakerModel:
    """Load the networks of pyannote's community-1."""
    model = load_speakers(settings(diarize_model="pkg:moonshine_voice", cache_dir=cache_dir), Timeline())
    assert model is not None
    return model


def of_recording(model: SpeakerModel, talk: Conversation) -> list[Turn]:
    """Return the turns of a whole recording."""
    diarizer = model.new_diarizer()
    diarizer.push(talk.samples)
    return diarizer.finish(ANY).turns()


def of_stream(model: SpeakerModel, talk: Conversation) -> list[Turn]:
    """Return the turns of a live session, which hears each stretch of speech when it is over.

    Stretches end where the reference has no speech for MIN_PAUSE_S.
    """
    diarizer = model.new_online_diarizer()
    assert diarizer is not None
    turns: list[Turn] = []
    last = 0
    for speech in without_pauses(replace(turn, speaker=0) for turn in talk.turns):
        first = max(last, round((speech.start - MARGIN_S) * SAMPLE_RATE))
        last = round((speech.end + MARGIN_S) * SAMPLE_RATE)
        stretch = diarizer.hear(talk.samples[first:last])
        turns += diarizer.add(stretch, ANY).starting_at(first / SAMPLE_RATE).turns()
    return turns


def score(talk: Conversation, turns: Sequence[Turn]) -> Score:
    """Return how well these turns are those of a conversation."""
    error, confusion = error_rates(talk.turns, turns)
    return Score(error, confusion, len({turn.speaker for turn in talk.turns}) == len({turn.speaker for turn in turns}))


def row(people: int, talks: Sequence[Conversation], model: SpeakerModel) -> str:
    """Return a line of the table."""
    chance = np.random.default_rng(0)
    narrow = [replace(talk, samples=by_telephone(talk.samples, chance)) for talk in talks]
    cells = [str(people)]
    for diarize in (of_recording, of_stream):
        for kind in (talks, narrow):
            scores = [score(talk, diarize(model, talk)) for talk in kind]
            error, confusion = (
                100 * sum(values) / len(scores)
                for values in ([each.error for each in scores], [each.confusion for each in scores])
            )
            right = sum(each.is_count_right for each in scores)
            cells.append(f"{error:.1f} % / {confusion:.1f} %, {right} of {len(scores)}")
    return f"| {' | '.join(cells)} |"


def _positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return number


def main() -> None:
    """Print error rates by the number of people."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--half", type=int, choices=(0, 1), default=1, help="which recordings: 0 is what to tune with")
    parser.add_argument("--number", type=_positive, default=20, help="conversations of each number of people")
    given = parser.parse_args()
    clips = {folder.resolve().name: clips_of(folder, given.half) for folder in given.folders}
    if len(clips) < len(given.folders):
        parser.error("expected a folder for each voice, whose names differ")
    for name, found in clips.items():
        if not found:
            parser.error(f"{name}: expected recordings of speech of {CLIP_S[0]:g} to {CLIP_S[1]:g} seconds")
    print("voices:", ", ".join(f"{name} {len(found)}" for name, found in sorted(clips.items())), flush=True)
    with TemporaryDirectory() as cache:
        model = load_model(Path(cache))
        print("| people | recording | by telephone | live | live by telephone |\n|---|---|---|---|---|")
        for people in (people for people in PEOPLE if people <= len(clips)):
            print(row(people, list(conversations(clips, people, given.number)), model), flush=True)


if __name__ == "__main__":
    main()
