"""A table as plain text."""

from collections.abc import Sequence


def aligned(table: Sequence[Sequence[str]]) -> str:
    """The lines of a table with aligned columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    )
