"""Our word error rates beside the peers': same weights, same audio, same threads, one run. See scripts/accuracy."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from scripts.lib.convert import TINY, converted
from scripts.lib.listening import spoken_in
from scripts.lib.machine import machine, model_name
from scripts.lib.peers import ROOT, SYSTEMS, Peer
from tests.support.word_errors import count_word_errors, total_errors

SHOWN = [name for name in SYSTEMS if name.startswith(("this worker", "faster-whisper, 5 beams", "openai-whisper"))]


def table(folder: Path, model: str, threads: int, repeat: int) -> Iterator[str]:
    """One folder's table in Markdown, line by line, as systems finish."""
    files = spoken_in(folder)
    total = sum(file.seconds for file in files)
    first: float | None = None
    for system in SHOWN:
        with Peer(system, converted(model, SYSTEMS[system].layout), threads, "cpu", "en") as peer:
            peer.transcribe(str(files[0].path))
            answers = [[peer.transcribe(str(file.path)) for _ in range(repeat)] for file in files]
            name = f"{system} {peer.version}".strip()
        score = count_word_errors([file.text for file in files], [found[0].text for found in answers])
        if first is None:
            words = score.hits + score.substitutions + score.deletions
            yield f"## {folder.name}: {len(files)} file{'s' * (len(files) > 1)}, {total:.0f} s, {words} words\n"
            yield "| system | word errors | substituted | left out | invented | WER | speed |"
            yield "|---|---|---|---|---|---|---|"
        speed = total / sum(median(answer.seconds for answer in found) for found in answers)
        first = first or speed
        counts = f"{total_errors(score)} | {score.substitutions} | {score.deletions} | {score.insertions}"
        yield f"| {name} | {counts} | {100 * score.wer:.2f} % | {speed / first:.2f} |"
    yield ""


def main() -> None:
    """Measure all systems on each folder and write docs/measurements/accuracy.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--model", default=TINY, help="a checkpoint in CTranslate2's layout (default: Whisper tiny.en)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1, help="times that each file is read; the median counts")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/measurements/accuracy.md")
    given = parser.parse_args()
    lines = [
        "# Word errors beside the peers'\n",
        f"`scripts/accuracy`, one run on one machine ({machine('cpu')}, {given.threads} threads), "
        f"weights of {model_name(given.model)} for all.",
        "Errors are counted after Whisper's English normalizer. "
        "Speed is seconds of audio a second, as a multiple of the first line's;",
        "machines are shared and noisy, so it only orders the lines.\n",
    ]
    for folder in given.folders:
        for line in table(folder, given.model, given.threads, given.repeat):
            print(line, flush=True)
            lines.append(line)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
