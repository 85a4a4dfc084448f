"""Write what scripts/gpu_check has found: a table to paste, and docs/measurements/gpu.md from files of many machines.

`python -m scripts.lib.gpu_report FILE …` writes the document from files that people have sent.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parents[2] / "docs/measurements/gpu.md"
_HEAD = """# On GPUs

Made by `python -m scripts.lib.gpu_report` from what [`scripts/gpu_check`](../deploy.md#on-a-gpu) has printed on the
machines below. Each machine is measured alone; do not compare machines that differ in more than the GPU.
"""
_MARKS = {True: "pass", False: "FAIL", None: "–"}


def table(report: Mapping[str, Any]) -> str:
    """Return a report as Markdown."""
    return "\n".join(_lines(report))


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    facts = report["facts"]
    yield f"## {facts.get('device', report['device'])}, {report['model']}: {report['verdict']}"
    yield ""
    yield f"Version {report['version']}, {report['seconds']} s. " + "; ".join(
        f"{name.replace('_', ' ')}: {_cell(value)}" for name, value in facts.items() if value not in ("", [], {}, None)
    )
    yield ""
    yield from markdown_table([_check_row(check) for check in report["checks"]])
    for name, content in report["times"].items():
        rows = content if isinstance(content, list) else [content]
        if rows and rows[0]:
            yield ""
            yield f"**{name.replace('_', ' ')}**"
            yield ""
            yield from markdown_table(rows)
    if report["skipped"]:
        yield ""
        yield f"No time was left for: {', '.join(report['skipped'])}."


def _check_row(check: Mapping[str, Any]) -> dict[str, str]:
    detail = f"{check['detail']}. To do: {check['advice']}" if check["passed"] is False else check["detail"]
    return {"check": check["name"], "": _MARKS[check["passed"]], "found": detail}


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table whose columns are those of all rows."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    yield f"| {' | '.join(name.replace('_', ' ') for name in columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(_cell(row.get(name)) for name in columns)} |"


def _cell(value: object) -> str:
    if isinstance(value, Mapping):
        value = ", ".join(f"{name} {number}" for name, number in value.items())
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


def main(files: Sequence[str]) -> None:
    """Write the document from files that scripts/gpu_check has written."""
    reports = [json.loads(Path(file).read_text()) for file in files]
    tables = [f"{table(report)}\n" for report in reports] or [
        "No machine has been measured yet. [gpu-h200.md](gpu-h200.md) tells of one by hand.\n"
    ]
    DOCUMENT.write_text("\n".join([_HEAD, *tables]))


if __name__ == "__main__":
    main(sys.argv[1:])
