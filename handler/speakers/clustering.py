"""Group voices that are the same. Knows no audio and no network.

Agglomerative clustering by average linkage of cosine distances, as in pyannote.audio, pipelines/clustering.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from handler.schema.speakers import SpeakerCount

MAX_CLUSTERED = 2000  # voices that are compared with each other; their number squared is what it costs
# A cosine distance from the middle of a group, within which a single voice is no group of its own.
LONE_THRESHOLD = 0.65
SURE_S = 1.0  # of solo speech; a voice with less is compared with groups, and makes none of its own
_ADJOINING = 6  # frames between two voices, a tenth of a second
_NEARBY = 100  # voices before and behind one among which its group is looked for
_NO_LENGTH = 1e-9
_APART = 2.0  # the distance of two voices that cannot be the same, which is as much as there is


@dataclass(frozen=True, slots=True)
class Voice:
    """A run of frames in which somebody speaks without a pause, in one chunk."""

    chunk: int
    local: int  # the number of the speaker in the chunk
    start: int  # frames from the start of the chunk
    end: int
    solo_s: float  # seconds in which nobody else speaks
    vector: NDArray[np.float32] | None = None  # of length 1; None if there is too little to hear


def group_voices(voices: Sequence[Voice], count: SpeakerCount, threshold: float) -> list[int]:
    """Return the number of the group of each voice.

    Voices further apart than `threshold`, a cosine distance, are not the same, unless `count` says so. Different
    speakers of one chunk are rather not the same.
    """
    heard = [index for index, voice in enumerate(voices) if voice.vector is not None]
    if not heard:
        return [0] * len(voices)
    sure = _sure(voices, heard)
    found = _cluster([voices[index] for index in sure], count, threshold)
    centers = middle_voices([voices[index] for index in sure], found)
    groups: list[int | None] = [None] * len(voices)
    for index in heard:
        vector = voices[index].vector
        assert vector is not None
        groups[index] = int((centers @ vector).argmax())
    for index, group in zip(sure, found, strict=True):
        groups[index] = group
    return [_of_others(index, voices, groups) if group is None else group for index, group in enumerate(groups)]


def _of_others(index: int, voices: Sequence[Voice], groups: Sequence[int | None]) -> int:
    """Return the group of a voice with too little to hear: that of the nearest voice, of those that it may belong to.

    Those of the same speaker of its chunk go before others; one that it adjoins counts for as much as one of the same
    speaker further away, since a short run amid a longer one is rarely somebody else. It is nobody's who speaks during
    most of it, unless there is nobody else nearby.
    """
    voice = voices[index]
    nearby = range(max(0, index - _NEARBY), min(len(voices), index + _NEARBY + 1))
    known = [other for other in nearby if groups[other] is not None]
    meanwhile = {groups[other] for other in known if _is_during(voices[other], voice)}
    if not known:
        known = [other for other, group in enumerate(groups) if group is not None]
    known = [other for other in known if groups[other] not in meanwhile] or known

    def distance(other: int) -> tuple[int, int, int]:
        candidate = voices[other]
        if candidate.chunk != voice.chunk:
            return 2, abs(candidate.chunk - voice.chunk), abs(candidate.start - voice.start)
        gap = max(0, candidate.start - voice.end, voice.start - candidate.end)
        return (candidate.local != voice.local) + (gap > _ADJOINING), 0, gap

    return groups[min(known, key=distance)] or 0


def _is_during(other: Voice, voice: Voice) -> bool:
    """Return whether another speaker of the same chunk speaks during most of a voice."""
    common = min(other.end, voice.end) - max(other.start, voice.start)
    return other.chunk == voice.chunk and other.local != voice.local and 2 * common > voice.end - voice.start


def _sure(voices: Sequence[Voice], heard: Sequence[int]) -> list[int]:
    """Return which of the voices that are heard may make a group: those with enough speech.

    If there are too many, they are drawn, so that somebody who says little in a long recording is among them.
    """
    sure = [index for index in heard if voices[index].solo_s >= SURE_S]
    if len(sure) < 2:
        return sorted(heard, key=lambda index: -voices[index].solo_s)[:MAX_CLUSTERED]
    if len(sure) <= MAX_CLUSTERED:
        return sure
    drawn = np.random.default_rng(0).choice(len(sure), MAX_CLUSTERED, replace=False)  # the same ones each time
    return [sure[number] for number in sorted(drawn.tolist())]


def _cluster(voices: Sequence[Voice], count: SpeakerCount, threshold: float) -> list[int]:
    """Return the number of the cluster of each voice, counted from 0."""
    if len(voices) == 1:
        return [0]
    vectors = np.stack([voice.vector for voice in voices if voice.vector is not None])
    tree = linkage(_distances(voices, vectors), "average")
    groups = fcluster(tree, threshold, "distance")
    groups = _join_lone(groups - 1, vectors, count) + 1
    found = int(groups.max())
    wanted = max(found, count.low) if count.high is None else min(max(found, count.low), count.high)
    if wanted != found:
        groups = _largest(tree, wanted, voices, vectors) + 1
    return [int(group) - 1 for group in groups]


def _distances(voices: Sequence[Voice], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the distances of all pairs of voices, in the order of `linkage`. [n (n − 1) / 2]

    Of many voices they take more memory than anything else, so no more than one matrix of them is held at a time.
    """
    distances: NDArray[np.float32] = vectors @ vectors.T
    np.subtract(1, distances, out=distances)
    numbers: dict[int, list[int]] = {}  # of the voices of each chunk
    for number, voice in enumerate(voices):
        for other in numbers.setdefault(voice.chunk, []):
            if voices[other].local != voice.local:
                distances[other, number] = _APART  # of each pair, the one above the diagonal is taken
        numbers[voice.chunk].append(number)
    pairs: NDArray[np.float32] = squareform(distances.clip(0, _APART, out=distances), checks=False)
    return pairs


def _largest(
    tree: NDArray[np.float64], wanted: int, voices: Sequence[Voice], vectors: NDArray[np.float32]
) -> NDArray[np.int32]:
    """Return so many groups: those with the most speech of the fewest in which so many have several voices.

    Otherwise, a single voice that is like no other would count for somebody.
    """
    seconds = np.array([voice.solo_s for voice in voices])
    for number in range(min(wanted, len(voices)), len(voices) + 1):
        groups = fcluster(tree, number, "maxclust") - 1
        if (np.bincount(groups) > 1).sum() >= wanted:
            break
    else:
        groups = fcluster(tree, min(wanted, len(voices)), "maxclust") - 1
    totals = np.bincount(groups, seconds)
    kept = np.argsort(-totals, kind="stable")[:wanted]
    centers = np.stack([vectors[groups == group].mean(0) for group in kept])
    nearest = (vectors @ (centers / np.linalg.norm(centers, axis=1, keepdims=True)).T).argmax(1)
    position = {int(group): index for index, group in enumerate(kept)}
    pairs = zip(groups, nearest, strict=True)
    return np.array([position.get(int(group), int(near)) for group, near in pairs], np.int32)


def _join_lone(groups: NDArray[np.int32], vectors: NDArray[np.float32], count: SpeakerCount) -> NDArray[np.int32]:
    """Let a group of a single voice join the most similar other one, if that is not clearly somebody else.

    A run in which the speaker changes unnoticed resembles both speakers and is none of them.
    """
    sizes = np.bincount(groups)
    for lone in np.flatnonzero(sizes == 1):
        if len(np.unique(groups)) <= count.low:
            break
        if (groups == lone).sum() != 1:
            continue  # another one has joined it
        others = [group for group in np.unique(groups).tolist() if group != lone]
        vector = vectors[groups == lone][0]
        centers = np.stack([vectors[groups == group].mean(0) for group in others])
        similarity = centers @ vector / np.linalg.norm(centers, axis=1)
        if 1 - similarity.max() < LONE_THRESHOLD:
            groups = np.where(groups == lone, others[int(similarity.argmax())], groups)
    return np.unique(groups, return_inverse=True)[1].astype(np.int32)


def middle_voices(voices: Sequence[Voice], groups: Sequence[int]) -> NDArray[np.float32]:
    """Return the middle of each group of voices, of length 1, or 0 if no voice of it has a vector. [groups, d]"""
    heard = [(voice.vector, group) for voice, group in zip(voices, groups, strict=True) if voice.vector is not None]
    size = len(heard[0][0]) if heard else 0
    sums = np.zeros((max(groups, default=-1) + 1, size), np.float32)
    for vector, group in heard:
        sums[group] += vector
    lengths: NDArray[np.float32] = np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), _NO_LENGTH)
    return (sums / lengths).astype(np.float32)
