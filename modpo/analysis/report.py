"""A run's report on disk: RUN/report/ with summary.json, points.parquet, points.csv and one self-contained page."""

from __future__ import annotations

import base64
import csv
import hashlib
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pyarrow
import pyarrow.parquet
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from modpo.analysis.figures import front_figure, kl_figure
from modpo.analysis.front import summarise_run
from modpo.analysis.rows import COSTS
from modpo.artifacts import publish, write_json

REPORT = "report"
TEMPLATE = "report.html.jinja"

HIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Line breaks and tabs are laid out; the two joiners are part of ordinary words and emoji.
ALLOWED_HIDDEN = "\n\t\u200c\u200d"
UNKNOWN = "—"
FORMULA_STARTS = ("=", "+", "-", "@")

Summary = Mapping[str, Any]
Point = Mapping[str, Any]


def write_report(run_dir: Path) -> dict[str, Any]:
    """Writes the whole report and returns its summary. Each file is replaced at once, so no reader meets half a one.

    Raises:
        InputError: the folder is no run, or files in it are damaged.
    """
    summary = summarise_run(run_dir)
    folder = run_dir / REPORT
    run_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=run_dir, prefix=f".{REPORT}.") as temporary:
        aside = Path(temporary)
        table = points_table(summary)
        pyarrow.parquet.write_table(table, aside / "points.parquet")
        write_csv(aside / "points.csv", table)
        (aside / "index.html").write_text(render_page(summary), encoding="utf-8")
        write_json(aside / "summary.json", summary)
        for file in sorted(aside.iterdir()):
            publish(file, folder / file.name)
    return summary


def points_table(summary: Summary) -> pyarrow.Table:
    """One row a point. Columns of an objective carry a prefix, so that no objective's name meets another column's."""
    names = [objective["name"] for objective in summary["objectives"]]
    number, count, text, flag = pyarrow.float64(), pyarrow.int64(), pyarrow.string(), pyarrow.bool_()
    columns: dict[str, tuple[pyarrow.DataType, Sequence[str]]] = {
        "trial_id": (text, ("trial_id",)),
        "status": (text, ("status",)),
        **{f"weight_{name}": (number, ("weights", name)) for name in names},
        "primary": (text, ("primary",)),
        "beta": (number, ("beta",)),
        "seed": (count, ("seed",)),
        **{
            f"{bound}_{name}": (number, ("objectives", name, bound))
            for name in names
            for bound in ("value", "low", "high")
        },
        **{
            figure if bound == "value" else f"{figure}_{bound}": (number, (figure, bound))
            for figure in ("kl", "j_w")
            for bound in ("value", "low", "high")
        },
        "dominated": (flag, ("dominated",)),
        **{name: (number, (name,)) for name in ("length", "distinct_n", "truncated")},
        **{name: (count if name == "tokens" else number, (name,)) for name in COSTS},
        **{f"accuracy_{name}": (number, ("pair_accuracy", name, "value")) for name in names},
        **{f"exact_{name}": (number, ("exact_objectives", name)) for name in names},
        **{name: (number, (name,)) for name in ("kl_to_exact", "kl_exact_to_reference", "outside_mass")},
        "checkpoint": (text, ("checkpoint",)),
        "error": (text, ("error",)),
    }
    return pyarrow.table(
        {
            name: pyarrow.array([_at(point, path) for point in summary["points"]], type=kind)
            for name, (kind, path) in columns.items()
        }
    )


def write_csv(path: Path, table: pyarrow.Table) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table.column_names)
        writer.writerows([csv_cell(value) for value in row.values()] for row in table.to_pylist())


def csv_cell(value: str | float | bool | None) -> str | float | bool:
    """Text that a spreadsheet would run as a formula gets an apostrophe in front; numbers stay numbers."""
    if value is None:
        return ""
    if isinstance(value, str):
        text = visible(value)
        return f"'{text}" if text.lstrip().startswith(FORMULA_STARTS) else text
    return value


def render_page(summary: Summary) -> str:
    """The page: no external resource, every text escaped, scripts pinned by hash, figures as escaped JSON."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    environment.filters |= {
        "visible": visible,
        "number": shown_number,
        "duration": shown_duration,
        "csp_hash": csp_hash,
    }
    figures = {"front": front_figure(summary), "kl": kl_figure(summary)} if summary["hypervolume"] else {}
    return environment.get_template(TEMPLATE).render(
        summary=summary,
        names=[objective["name"] for objective in summary["objectives"]],
        points_by_id={point["trial_id"]: point for point in summary["points"]},
        figures=figures,
        # Not text of a user: the library itself, which holds no `</script` (tested).
        plotly_js=Markup(get_plotlyjs()),
    )


def visible(text: str) -> str:
    """Control, bidirectional and other invisible characters by number, so that no text can pose as another."""
    if text.isprintable():
        return text
    return "".join(f"⟨U+{ord(c):04X}⟩" if _is_hidden(c) else c for c in text)


def shown_number(value: float | None, digits: int = 3) -> str:
    """A figure with so many decimals; in powers of ten where that would hide it, a dash where it is unknown."""
    if value is None:
        return UNKNOWN
    if value != 0 and not 10.0**-digits <= abs(value) < 1e6:
        return f"{value:.{digits}g}"
    return f"{value:,.{digits}f}"


def shown_duration(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def csp_hash(script: str) -> str:
    """The source expression by which a Content-Security-Policy allows exactly this script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in HIDDEN_CATEGORIES and character not in ALLOWED_HIDDEN


def _at(point: Point, path: Sequence[str]) -> Any:
    """The value at a path of keys; None where any part of it is unknown."""
    value: Any = point
    for key in path:
        value = None if value is None else value.get(key)
    return value
