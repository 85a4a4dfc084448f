"""Say who says each word, and part segments where the speaker changes. Pure functions. Knows no model and no audio."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import count, groupby

from handler.schema.speakers import SpeakerActivity
from handler.schema.transcript import Segment, Word

Speakers = Sequence[SpeakerActivity]  # who speaks when in each channel
MIN_OVERLAP = 0.3  # of a segment during which somebody else must be heard to count
MAX_STRAY_S = 0.6  # words of somebody else inside of a turn that last less, and are not clearly theirs, are not theirs
CLEAR_SHARE = 0.6  # of a word during which its speaker must be heard to be clear


def name_speakers(segments: Sequence[Segment], speakers: Speakers, known: Collection[str] = ()) -> list[Segment]:
    """Return the segments with the names of their speakers, in parts if the speaker changes in one.

    Speakers who are not known are called A, B, …, in the order of the activity of each channel, one channel after the
    other. A letter that is a name of `known` speakers stands for nobody else.
    """
    names = _names(speakers, known)
    named: list[Segment] = []
    for segment in segments:
        channel = segment.channel or 0
        if channel < len(speakers):
            named += _name(segment, speakers[channel], names[channel])
        else:
            named.append(segment)
    return sorted(named, key=lambda segment: (segment.start, segment.channel or 0))


def speakers_of(segments: Sequence[Segment]) -> tuple[str, ...]:
    """Return who speaks, in the order of first words."""
    return tuple(dict.fromkeys(segment.speaker for segment in segments if segment.speaker is not None))


def _names(speakers: Speakers, known: Collection[str]) -> list[list[str]]:
    """Return the names of the speakers of each channel."""
    letters = (name for name in map(speaker_name, count()) if name not in known)
    return [
        [activity.names.get(number) or next(letters) for number in range(activity.num_speakers)]
        for activity in speakers
    ]


def speaker_name(number: int) -> str:
    """Return the name of a speaker counted from 0: A to Z, then AA, AB and so on."""
    name = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        name = chr(ord("A") + letter) + name
    return name


def _name(segment: Segment, activity: SpeakerActivity, names: Sequence[str]) -> list[Segment]:
    """Return a segment with its speakers."""
    if not segment.words:
        number = _speaker_at(activity, segment.start, segment.end)
        return [_with_speaker(segment, number, activity, names)]
    numbers = _speakers_of_words(segment.words, activity)
    parts: list[Segment] = []
    for number, pairs in groupby(zip(numbers, segment.words, strict=True), key=lambda pair: pair[0]):
        name = None if number is None else names[number]
        words = tuple(replace(word, speaker=name) for _, word in pairs)
        parts.append(_with_speaker(_part_of(segment, words), number, activity, names))
    return parts


def _part_of(segment: Segment, words: tuple[Word, ...]) -> Segment:
    """Return the part of a segment that consists of these words."""
    if len(words) == len(segment.words):
        return replace(segment, words=words)
    return replace(
        segment,
        start=words[0].start,
        end=words[-1].end,
        text="".join(word.text for word in words),
        tokens=tuple(token for word in words for token, _ in word.tokens),
        words=words,
    )


def _with_speaker(segment: Segment, number: int | None, activity: SpeakerActivity, names: Sequence[str]) -> Segment:
    present = activity.speakers_at(segment.start, segment.end)
    others = [other for other, share in present if other != number and share >= MIN_OVERLAP]
    name = None if number is None else names[number]
    return replace(segment, speaker=name, overlapping=tuple(names[other] for other in others))


def _speaker_at(activity: SpeakerActivity, start: float, end: float) -> int | None:
    present = activity.speakers_at(start, end)
    return present[0][0] if present else activity.nearest(start, end)


def _speakers_of_words(words: Sequence[Word], activity: SpeakerActivity) -> list[int | None]:
    """Return who says each word: whoever is heard most during it, or nearest to it.

    A few words of somebody else in the middle of a turn stay with that turn, unless their speaker is clearly heard.
    """
    numbers = [_speaker_at(activity, word.start, word.end) for word in words]
    start = 0
    for number, group in [(number, len(list(items))) for number, items in groupby(numbers)]:
        end = start + group
        if start > 0 and end < len(words) and numbers[start - 1] == numbers[end] and number is not None:
            is_short = words[end - 1].end - words[start].start < MAX_STRAY_S
            shares = [dict(activity.speakers_at(word.start, word.end)).get(number, 0.0) for word in words[start:end]]
            if is_short and min(shares) < CLEAR_SHARE:
                numbers[start:end] = [numbers[end]] * group
        start = end
    return numbers
