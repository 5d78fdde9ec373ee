"""The report's files: one self-contained page that no text can break out of, and tables that agree with the summary."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from modpo.analysis.figures import front_figure, kl_figure
from modpo.analysis.report import csp_hash, csv_cell, shown_duration, shown_number, visible, write_report
from modpo.config.load import parse_config
from modpo.core.weights import simplex_lattice
from modpo.errors import InputError
from modpo.ledger import point_dir
from tests.unit.analysis.ledgers import MadePoint, everywhere, make_config, write_run

TWO = make_config("vivid", "brief")
THREE = make_config("helpful", "harmless", "honest")

HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg/onload=alert(1)>",
    "<iframe src=javascript:alert(1)></iframe>",
    "</td></table></main><script src=https://example.org/x.js></script>",
    "<!--<script>",
    "]]></style></title><body onload=alert(1)>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[31mred\x1b[0m\x07\x00",
    "\u202eexe.gnp\u202c \u2066isolated\u2069 \u200e\u200f\ufeff",
    "line\u2028separator\u2029paragraph",
    "=HYPERLINK(1)",
    "<img src=x onerror=alert(1)//",
    "<math><mtext></table><img src onerror=alert(1)>",
    "<svg><animate onbegin=alert(1) attributeName=x>",
    "<details open ontoggle=alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "<a href=data:text/html,<script>alert(1)</script>>x</a>",
    "<base href=https://example.org/>",
    "<meta http-equiv=refresh content='0;url=https://example.org'>",
    "<form action=https://example.org><input name=x>",
    "<style>@import 'https://example.org/x.css';</style>",
    "<link rel=stylesheet href=https://example.org/x.css>",
    "<textarea><script>alert(1)</script>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    '"onmouseover=alert(1) x="',
    "`${alert(1)}`",
    "\\u003cscript\\u003ealert(1)",
)
# Only a message can hold half a character; no parquet file can.
HOSTILE_ERROR = " ".join([*HOSTILE, "caf\udce9"])


class Page(HTMLParser):
    """The elements of a page in order, its text, and the content of its scripts."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        self.text += " "
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        """Tags with the names of their attributes."""
        return [(tag, tuple(attributes)) for tag, attributes in self.elements]

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read_page(run_dir: Path) -> Page:
    return Page((run_dir / "report" / "index.html").read_text(encoding="utf-8"))


def two_objective_points(*, texts: Sequence[str] = ("a plain text",), error: str = "diverged") -> list[MadePoint]:
    prompts = [f"{number} {' '.join(texts)}" for number in range(4)]
    points = [
        MadePoint(trial_id="a", weights=(1.0, 0.0), values=everywhere(4, 1), exact=(5, 1)),
        MadePoint(trial_id="b", weights=(0.5, 0.5), values=everywhere(3, 3), exact=(3.5, 3.5)),
        MadePoint(trial_id="c", weights=(0.0, 1.0), values=everywhere(-1, 4), exact=(1, 5)),
        MadePoint(trial_id="d", weights=(0.5, 0.5), values=everywhere(2, 2), exact=(3.5, 3.5), seed=1),
    ]
    measured = [replace(point, prompts=prompts, responses=prompts[::-1]) for point in points]
    return [*measured, MadePoint(trial_id="f", weights=(0.5, 0.5), status="failed", error=error)]


def test_report_is_four_whole_files_and_nothing_beside(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, TWO, two_objective_points())
    before = {path.name for path in run_dir.iterdir()}
    summary = write_report(run_dir)
    assert {path.name for path in run_dir.iterdir()} == before | {"report"}
    assert {path.name for path in (run_dir / "report").iterdir()} == {
        "index.html",
        "points.csv",
        "points.parquet",
        "summary.json",
    }
    assert json.loads((run_dir / "report" / "summary.json").read_text(encoding="utf-8")) == summary


def test_report_over_a_damaged_ledger_keeps_the_old_one(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, TWO, two_objective_points())
    write_report(run_dir)
    before = {path.name: path.read_bytes() for path in (run_dir / "report").iterdir()}
    (point_dir(run_dir, "a") / "point.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError):
        write_report(run_dir)
    assert {path.name: path.read_bytes() for path in (run_dir / "report").iterdir()} == before


def test_page_loads_nothing_and_allows_only_its_own_scripts(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, TWO, two_objective_points())
    write_report(run_dir)
    page = read_page(run_dir)
    assert not [element for element in page.elements if {"src", "href", "action", "data", "srcset"} & set(element[1])]
    assert [attributes.get("type") for attributes in page.attributes("script")] == ["application/json", None, None]
    (policy,) = [meta["content"] for meta in page.attributes("meta") if meta.get("http-equiv")]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"].split() == [csp_hash(script) for script in page.scripts[1:]]
    assert page.scripts[1].startswith("/**\n* plotly.js")
    assert "showSendToCloud: false" in page.scripts[2]


def test_hostile_text_adds_no_element_and_no_attribute(tmp_path: Path) -> None:
    for name, texts, error in (
        ("plain", ["a plain text"], "diverged"),
        ("hostile", HOSTILE, HOSTILE_ERROR),
    ):
        write_report(write_run(tmp_path / name, TWO, two_objective_points(texts=texts, error=error)))
    page = read_page(tmp_path / "hostile")
    assert page.shape == read_page(tmp_path / "plain").shape
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    # Told as text, three prompts and four responses to each, and once as the root cause.
    assert page.text.count("</script><script>alert(1)</script>") == 3 + 3 * 4 + 1


def test_invisible_characters_are_shown_by_number(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, TWO, two_objective_points(texts=HOSTILE, error=HOSTILE_ERROR))
    write_report(run_dir)
    page = read_page(run_dir)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", page.text)
    assert "⟨U+202E⟩exe.gnp⟨U+202C⟩" in page.text
    assert "⟨U+001B⟩[31mred" in page.text


def test_figures_stand_escaped_in_the_page(tmp_path: Path) -> None:
    points = [*two_objective_points(), MadePoint(trial_id="<b>&x", weights=(0.0, 1.0), values=everywhere(0, 5))]
    run_dir = write_run(tmp_path, make_config("vivid", "brief"), [replace(point, exact=None) for point in points])
    summary = write_report(run_dir)
    island = read_page(run_dir).scripts[0]
    assert not set("<>&") & set(island)
    assert json.loads(island) == {"front": front_figure(summary), "kl": kl_figure(summary)}
    # Plotly reads tags in hover texts, so there the name is escaped once more.
    assert "&lt;b&gt;&amp;x" in json.loads(island)["front"]["data"][0]["text"][-1]


def test_front_figure_of_two_objectives(tmp_path: Path) -> None:
    summary = write_report(write_run(tmp_path, TWO, two_objective_points()))
    exact, trained, dominated = front_figure(summary)["data"]
    assert (exact["x"], exact["y"]) == ([1, 3.5, 3.5, 5], [5, 3.5, 3.5, 1])
    assert (trained["x"], trained["y"], trained["marker"]["symbol"]) == ([4, 3, -1], [1, 3, 4], "circle")
    assert (dominated["x"], dominated["y"], dominated["marker"]["symbol"]) == ([2], [2], "circle-open")
    assert trained["error_x"]["array"] == pytest.approx([0.1] * 3)
    assert "weights vivid 0.5, brief 0.5" in trained["text"][1]


def test_three_objectives_have_a_panel_for_each_pair(tmp_path: Path) -> None:
    points = [
        MadePoint(trial_id=f"w{number}", weights=weights, values=everywhere(*weights))
        for number, weights in enumerate(simplex_lattice(3, 2))
    ]
    summary = write_report(write_run(tmp_path, THREE, points))
    layout = front_figure(summary)["layout"]
    assert layout["grid"]["subplots"] == [["xy", ""], ["x2y2", "x3y3"]]
    titles = [
        (layout[f"xaxis{suffix}"]["title"]["text"], layout[f"yaxis{suffix}"]["title"]["text"])
        for suffix in ("", "2", "3")
    ]
    assert titles == [("helpful", "harmless"), ("helpful", "honest"), ("harmless", "honest")]
    assert len({trace["yaxis"] for trace in kl_figure(summary)["data"]}) == 3


def test_several_betas_are_told_apart(tmp_path: Path) -> None:
    points = [
        replace(point, trial_id=f"{point.trial_id}-{beta}", beta=beta, exact=None)
        for point in two_objective_points()[:3]
        for beta in (0.1, 0.5)
    ]
    summary = write_report(write_run(tmp_path, TWO, points))
    assert [trace["name"] for trace in front_figure(summary)["data"]] == ["trained, beta 0.1", "trained, beta 0.5"]


@pytest.mark.parametrize("num_objectives", [2, 3, 4])
def test_figures_are_valid_plotly(tmp_path: Path, num_objectives: int) -> None:
    from plotly.graph_objects import Figure

    config = make_config(*(f"objective_{k}" for k in range(num_objectives)))
    points = [
        MadePoint(trial_id=f"w{number}", weights=weights, values=everywhere(*weights), exact=weights)
        for number, weights in enumerate(simplex_lattice(num_objectives, 2))
    ]
    summary = write_report(write_run(tmp_path, config, points))
    for figure in (front_figure(summary), kl_figure(summary)):
        assert len(Figure(figure).data) == len(figure["data"])


def test_page_tells_what_the_summary_tells(tmp_path: Path) -> None:
    """Above (.6, .6), where `c` is not, `a` and `b` have .4 + 2.4 * 2.4 = 6.16 of the exact front's 9.61."""
    raw = TWO.model_dump(mode="json")
    raw["objectives"][1] |= {"reward": None, "direction": "minimize"}
    old = MadePoint(trial_id="old", weights=(0.0, 1.0), status="failed", error="worker was lost")
    points = [*two_objective_points(), old]
    run_dir = write_run(tmp_path, parse_config(raw), points, trials=["a", "b", "c", "d", "f", "never"])
    write_report(run_dir)
    text = " ".join(read_page(run_dir).text.split())
    for told in (
        "4 of 6 1 failed 1 to come",
        "hypervolume 6.160 6.160 … 6.160 its corner vivid 0.600 brief 0.600",
        "of the exact front's hypervolume 64.1 %",
        "brief is minimised, so its sign is turned",
        "brief: self-scored",
        "The corner is the exact front's worst value",
        "Of 5 pairs, none breaks this with its whole 95 % interval.",
        "Mean KL(π ‖ π*) is 0.020 nats",
        "f vivid 0.5 brief 0.5 failed diverged",
        "never — not started",
        "old not of this sweep failed worker was lost",
        "prepare 1.5 s 0.0 s 0.0 % annotate 0.1 s (earlier call) 0.2 s 0.3 % sweep — 1 min 15 s 99.7 %",
        "torch 2.13.0",
    ):
        assert told in text


def test_page_lists_the_pairs_that_break_monotonicity(tmp_path: Path) -> None:
    points = [
        MadePoint(trial_id="a", weights=(1.0, 0.0), values=everywhere(1, 4)),
        MadePoint(trial_id="c", weights=(0.0, 1.0), values=everywhere(4, 1)),
    ]
    run_dir = write_run(tmp_path, TWO, points)
    write_report(run_dir)
    page = read_page(run_dir)
    assert "Of 1 pair, 1 breaks this with its whole 95 % interval" in page.text
    assert "compares only within this run" in page.text
    assert {"id": "violations"} in page.attributes("table")


def test_page_without_a_front_has_no_script(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, TWO, two_objective_points()[-1:])
    write_report(run_dir)
    page = read_page(run_dir)
    assert page.scripts == []
    assert "there is no front to show" in page.text
    assert "diverged" in page.text


def test_csv_and_parquet_hold_one_row_a_point(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, TWO, two_objective_points(error="=HYPERLINK(1)"))
    summary = write_report(run_dir)
    table = pyarrow.parquet.read_table(run_dir / "report" / "points.parquet")
    assert table.num_rows == len(summary["points"]) == 5
    row: dict[str, Any] = table.to_pylist()[2]
    assert (row["trial_id"], row["weight_brief"], row["value_vivid"], row["high_brief"]) == ("c", 1.0, -1.0, 4.1)
    assert (row["exact_brief"], row["accuracy_vivid"], row["dominated"], row["seed"]) == (5.0, 0.7, False, 0)
    with (run_dir / "report" / "points.csv").open(encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    assert [cell["value_vivid"] for cell in cells] == ["4.0", "3.0", "-1.0", "2.0", ""]
    assert [cell["error"] for cell in cells] == ["", "", "", "", "'=HYPERLINK(1)"]


def test_objective_may_be_named_like_a_column(tmp_path: Path) -> None:
    config = make_config("beta", "error")
    points = [MadePoint(trial_id="a", weights=(0.5, 0.5), values=everywhere(7, 8))]
    write_report(write_run(tmp_path, config, points))
    (row,) = pyarrow.parquet.read_table(tmp_path / "report" / "points.parquet").to_pylist()
    assert (row["beta"], row["value_beta"], row["error"], row["value_error"]) == (0.1, 7.0, None, 8.0)


def test_columns_keep_their_types_where_nothing_is_known(tmp_path: Path) -> None:
    write_report(write_run(tmp_path, TWO, [], trials=["a"]))
    types = {f.name: str(f.type) for f in pyarrow.parquet.read_schema(tmp_path / "report" / "points.parquet")}
    assert (types["kl"], types["seed"], types["dominated"], types["error"]) == ("double", "int64", "bool", "string")


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@x", "'@x"),
        ("\t=1", "'\t=1"),
        ("plain = text", "plain = text"),
        ("\x1b[31m", "⟨U+001B⟩[31m"),
        (-1.5, -1.5),
        (True, True),
        (None, ""),
    ],
)
def test_csv_cell(value: str | float | bool | None, cell: str | float | bool) -> None:
    assert csv_cell(value) == cell


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (None, 3, "—"),
        (0.0, 3, "0.000"),
        (1.23456, 3, "1.235"),
        (-0.5, 1, "-0.5"),
        (0.000012345, 3, "1.23e-05"),
        (12345678.0, 3, "1.23e+07"),
    ],
)
def test_shown_number(value: float | None, digits: int, text: str) -> None:
    assert shown_number(value, digits) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "—"),
        (0.0, "0.0 s"),
        (59.94, "59.9 s"),
        (61.0, "1 min 01 s"),
        (3599.7, "1 h 00 min"),
        (93784.0, "26 h 03 min"),
    ],
)
def test_shown_duration(seconds: float | None, text: str) -> None:
    assert shown_duration(seconds) == text


def test_ordinary_text_of_any_script_stays_as_it_is() -> None:
    text = "naïve\n\tשלם 你好 e\u0301 👩\u200d👧 می\u200cرود\u00a0x"
    assert visible(text) == text


def test_report_needs_neither_torch_nor_ray() -> None:
    heavy = ["torch", "transformers", "ray", "deepspeed", "peft", "datasets", "pandas"]
    script = f"import sys; import modpo.analysis.report; print([m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
