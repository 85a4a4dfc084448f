"""What a benchmark has measured as Markdown and a picture. Measures nothing itself."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from scripts.lib.machine import model_name, slug

OURS = "this worker, by HTTP"
MIB = 2**20

Figures = Mapping[str, Any]  # of one model on one device: what each step has measured, by its name


_HEAD = (
    "# Speed, latency and memory beside the peers'",
    "Written by `scripts/bench`. Speed is seconds of audio a second. All start from the same checkpoint; the",
    "number format that each computes in stands after its name, and this worker runs as it does by default. Peers",
    "take one file at a time, read clips from the disk and are called in their own process; this worker is asked",
    "by HTTP. Everybody downloads the joined file from loopback. Speeds, waits and memory are medians of rounds",
    "in which all take turns, word errors (after Whisper's English normalizer) those of the first round, `/hc` is",
    "the slowest of all, and each length was measured once, on a server that had transcribed the joined file.",
    "Machines are shared and noisy: only ratios within a table mean something.",
)


def write_report(run: Figures, folder: Path) -> None:
    """Write a run's section of benchmarks.md, where the other runs keep theirs, and its picture."""
    folder.mkdir(parents=True, exist_ok=True)
    about = run["about"]
    title = f"{model_name(about['model'])} on {about['device']}"
    picture = f"benchmarks-{slug(title.removeprefix('Whisper '))}.png"
    lines = [
        f"{about['machine']}, {about['threads']} threads; {about['clips']} clips.\n",
        f"![speed, latency and memory]({picture})\n",
    ]
    parts = (_systems, _clients, _files, _jobs, _beside, _busy, _lengths)
    lines += [line for part in parts for line in (*part(run), "")]
    path = folder / "benchmarks.md"
    _, *others = path.read_text().split("\n## ") if path.is_file() else [""]
    sections = dict(other.split("\n", 1) for other in others)
    sections[title] = "\n".join(["", *lines])
    head = "\n".join((_HEAD[0], "", *_HEAD[1:]))
    path.write_text(
        "\n\n".join([head, *(f"## {name}\n{text.rstrip()}" for name, text in sorted(sections.items()))]) + "\n"
    )
    _draw(run, folder / picture)


def _rounds(run: Figures, name: str, kind: str = "round") -> list[Figures]:
    """What each round of a kind has measured of a system or of so many clients."""
    return [figures for step, figures in run.items() if step.startswith(kind) and step.partition(": ")[2] == name]


def _names(run: Figures, clients: bool) -> list[str]:
    """Systems, or numbers of clients, in the order in which they were measured."""
    return [name for name in _measured(run, "round") if name.endswith(" clients") is clients]


def _measured(run: Figures, kind: str) -> list[str]:
    """What the rounds of a kind have measured, in the order in which it was."""
    return list(dict.fromkeys(step.partition(": ")[2] for step in run if step.startswith(kind)))


def _middle(rounds: Sequence[Figures], *path: str) -> float:
    def found(figures: Any) -> float:
        for key in path:
            figures = figures[key]
        return float(figures)

    return median(found(figures) for figures in rounds)


def _systems(run: Figures) -> Iterator[str]:
    yield from _head(
        "", "clips one by one", "ours is", "word errors", "joined file", "ours is", "word errors", "peak memory"
    )
    ours = {row: _middle(_rounds(run, OURS), row, "speed") for row in ("clips", "joined")}
    for name in _names(run, clients=False):
        rounds = _rounds(run, name)
        cells = [f"{_shown(name, run)} {rounds[0].get('version', '')}".strip() + " (one round)" * (len(rounds) == 1)]
        for row in ("clips", "joined"):
            speed = _middle(rounds, row, "speed")
            errors, wer = rounds[0][row]["errors"], rounds[0][row]["wer"]
            cells += [
                f"{speed:.1f}×",
                f"{ours[row] / speed:.2f} times as fast" if name != OURS else "",
                f"{errors} ({100 * wer:.2f} %)",
            ]
        cells.append(f"{_middle(rounds, 'peak_bytes') / MIB:.0f} MiB")
        yield f"| {' | '.join(cells)} |"


def _shown(name: str, run: Figures) -> str:
    """A system by what it computes in there."""
    return name.replace("int8", "float16") if run["about"]["device"] == "cuda" else name


def _clients(run: Figures) -> Iterator[str]:
    names = _names(run, clients=True)
    if not names:
        return
    fastest = max(
        (name for name in _names(run, clients=False) if name != OURS),
        key=lambda name: _clip_speed(run, name),
        default=None,
    )
    against = f"against {fastest} one by one"
    yield from _head(
        "clients", "clips", against, "p50, of one client's", "p95, of p50", "lost", "word errors", "slowest `/hc`"
    )
    alone = _middle(_rounds(run, names[0]), "p50_s")
    for name in names:
        rounds = _rounds(run, name)
        speed, p50, p95 = (_middle(rounds, figure) for figure in ("speed", "p50_s", "p95_s"))
        ratio = f"{speed / _clip_speed(run, fastest):.2f} times" if fastest else ""
        lost, wer = sum(figures["lost"] for figures in rounds), _middle(rounds, "wer")
        slowest = max(figures["hc_s"] for figures in rounds)
        cells = (
            f"{speed:.1f}×",
            ratio,
            f"{p50 / alone:.2f}",
            f"{p95 / p50:.2f}",
            lost,
            f"{100 * wer:.2f} %",
            f"{1000 * slowest:.0f} ms",
        )
        yield f"| {name.removesuffix(' clients')} | {' | '.join(map(str, cells))} |"


def _clip_speed(run: Figures, name: str) -> float:
    return _middle(_rounds(run, name), "clips", "speed")


def _jobs(run: Figures) -> Iterator[str]:
    names = _measured(run, "jobs")
    if not names:
        return
    joined = _middle(_rounds(run, OURS), "joined", "speed")
    yield from _head("files of", "clients", "speed", "of the joined file's", "lost", "word errors")
    for name in names:
        rounds = _rounds(run, name, "jobs")
        windows, clients = name.removesuffix(" clients").split(", ")
        speed, wer = _middle(rounds, "speed"), _middle(rounds, "wer")
        lost = sum(figures["lost"] for figures in rounds)
        yield f"| {windows} | {clients} | {speed:.1f}× | {speed / joined:.2f} | {lost} | {100 * wer:.2f} % |"


def _files(run: Figures) -> Iterator[str]:
    steps = _measured(run, "file")
    if not steps:
        return
    yield from _head("file", "by", "speed", "ours is", "word errors", "of our decoding above temperature 0")
    for step in steps:
        kind, name = step.split(": ", 1)
        rounds, ours = _rounds(run, step, "file"), _rounds(run, f"{kind}: {OURS}", "file")
        first, speed = rounds[0], _middle(rounds, "speed")
        ratio = f"{_middle(ours, 'speed') / speed:.2f} times as fast" if name != OURS else ""
        shares = first.get("device_s", {})
        above = 1 - shares.get("0", 0.0) / sum(shares.values()) if shares else None
        share = f"{100 * above:.0f} %" if above is not None else ""
        errors = f"{first['errors']} ({100 * first['wer']:.2f} %)"
        yield f"| {kind} | {_shown(name, run)} | {speed:.1f}× | {ratio} | {errors} | {share} |"


def _beside(run: Figures) -> Iterator[str]:
    rounds = _rounds(run, "clips", "beside")
    if rounds:
        p50, p95, long = (_middle(rounds, figure) for figure in ("p50", "p95", "long"))
        yield (
            f"Clips of 4 clients beside the joined file take {p50:.2f} times as long as without it (p95 is {p95:.2f} "
            f"times p50); the file keeps {long:.2f} of its speed; {sum(row['lost'] for row in rounds)} were lost."
        )


def _busy(run: Figures) -> Iterator[str]:
    names = _measured(run, "busy")
    if not names:
        return
    yield from _head("beside a busy process", "clips, of the quiet speed", "ours is", "joined, of quiet", "ours is")
    ours = {row: _middle(_rounds(run, OURS, "busy"), row, "speed") for row in ("clips", "joined")}
    for name in names:
        cells = [_shown(name, run)]
        for row in ("clips", "joined"):
            speed = _middle(_rounds(run, name, "busy"), row, "speed")
            cells.append(f"{speed / _middle(_rounds(run, name), row, 'speed'):.2f}")
            cells.append(f"{ours[row] / speed:.2f} times as fast" if name != OURS else "")
        yield f"| {' | '.join(cells)} |"


def _by_length(run: Figures) -> list[Figures]:
    return [figures for step, figures in run.items() if step.startswith("length")]


def _lengths(run: Figures) -> Iterator[str]:
    rows = _by_length(run)
    if len(rows) < 2:
        return
    yield from _head(
        "length", "speed", "time, of the shortest's", "peak memory", "of the shortest's", "word errors", "slowest `/hc`"
    )
    for row in rows:
        cells = (
            f"{row['audio_s'] / 60:.0f} min",
            f"{row['speed']:.1f}×",
            f"{row['seconds'] / rows[0]['seconds']:.2f}",
            f"{row['peak_bytes'] / MIB:.0f} MiB",
            f"{row['peak_bytes'] / rows[0]['peak_bytes']:.3f}",
            f"{100 * row['wer']:.2f} %",
            f"{1000 * row['hc_s']:.0f} ms",
        )
        yield f"| {' | '.join(cells)} |"
    exponent = np.polyfit(np.log([row["audio_s"] for row in rows]), np.log([row["seconds"] for row in rows]), 1)[0]
    yield f"\nTime grows with length to the power of {exponent:.3f}."
    longest = rows[-1]
    if "beside_s" in longest:
        usual, worst = (longest[figure] / longest["idle_s"] for figure in ("beside_s", "slowest_s"))
        yield (
            "The clip whose length is nearest to 10 s, sent while the longest file is transcribed, is answered in "
            f"{usual:.2f} times what an idle server takes (median of {longest['replies']}; at worst {worst:.2f} times)."
        )


def _head(*columns: str) -> tuple[str, str]:
    return f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"


def _draw(run: Figures, path: Path) -> None:
    """Three panels: speeds, clients, memory by length."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (bars, clients, lengths) = pyplot.subplots(1, 3, figsize=(15, 4.2), constrained_layout=True)
    names = _names(run, clients=False)[::-1]
    places = np.arange(len(names))
    for shift, row, label in ((0.2, "clips", "clips one by one"), (-0.2, "joined", "joined file")):
        speeds = [_middle(_rounds(run, name), row, "speed") for name in names]
        drawn = bars.barh(places + shift, speeds, 0.38, label=label)
        bars.bar_label(drawn, fmt="%.0f", padding=2, fontsize=8)
    bars.set_yticks(places, names, fontsize=8)
    bars.set_xlabel("seconds of audio a second")
    bars.legend(fontsize=8)
    if several := _names(run, clients=True):
        counts = [int(name.removesuffix(" clients")) for name in several]
        clients.plot(counts, [_middle(_rounds(run, name), "speed") for name in several], "o-")
        clients.set_xscale("log", base=2)
        clients.set_xticks(counts, [str(count) for count in counts])
        clients.set_ylim(bottom=0)
        clients.set_xlabel("clients that send clips at once")
        clients.set_ylabel("seconds of audio a second")
    if rows := _by_length(run):
        lengths.plot([row["audio_s"] / 3600 for row in rows], [row["peak_bytes"] / MIB for row in rows], "o-")
        lengths.set_xscale("log")
        lengths.set_ylim(bottom=0)
        lengths.set_xlabel("length of the file, hours")
        lengths.set_ylabel("peak memory, MiB")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
