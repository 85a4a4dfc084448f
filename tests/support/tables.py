"""Tables of the documents, as rows of cells."""

import re

from tests.conftest import ROOT


def table(document: str, first: str) -> dict[str, list[str]]:
    """The rows of the table whose head begins with `first`: the name in each row's first cell to its other cells."""
    rows: dict[str, list[str]] = {}
    _, _, rest = (ROOT / document).read_text().partition(f"\n| {first} |")
    for line in rest.split("\n\n")[0].splitlines()[2:]:
        name, *cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        assert name not in rows, f"{document}: {name} stands there twice"
        rows[name.strip("` ")] = cells
    return rows


def code_in(cell: str) -> str | None:
    """What a cell has in backticks first."""
    found = re.search(r"`([^`]+)`", cell)
    return found[1] if found else None


def says_unset(cell: str) -> bool:
    """Whether a cell says that there is no default value."""
    return cell.startswith("unset")
