"""Rows of the reproduction tables: published, here, difference."""

from __future__ import annotations

import dataclasses
import os
import pathlib

# Imported before JAX by every reproduction: fits need no accelerator, and looking for one that is
# not there prints warnings.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FIXTURES = ROOT / "tests" / "fixtures" / "scaling_data"


@dataclasses.dataclass(frozen=True)
class Row:
    """One published number beside ours. `digits` are the significant digits shown."""

    quantity: str
    published: float
    here: float
    digits: int = 7
    note: str = ""

    @property
    def difference(self) -> float:
        """Relative difference (absolute where the published value is 0)."""
        return (self.here - self.published) / (abs(self.published) or 1.0)


def markdown(title: str, source: str, rows: list[Row]) -> str:
    """One table in Markdown."""
    lines = [f"## {title}", "", source, "", "| quantity | published | here | difference | |"]
    lines.append("|---|---|---|---|---|")
    for row in rows:
        published, here = (f"{v:.{row.digits}g}" for v in (row.published, row.here))
        lines.append(
            f"| {row.quantity} | {published} | {here} | {row.difference:+.1e} | {row.note} |"
        )
    return "\n".join(lines) + "\n"


def fixture(name: str) -> pathlib.Path:
    """A data file that comes with the repository; see tests/fixtures/scaling_data/README.md."""
    return FIXTURES / name
