"""docs/data.md, written from the list of named data sets so that it says what the code does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from modpo.config.sources import ComparedColumns, PairColumns, RankedColumns
from modpo.data.named.dataset import Form, NamedDataset

INTRODUCTION = """\
# Data sets that modpo knows by name

Written by `python -m modpo.data.named > docs/data.md` from `modpo/data/named`.

Rows of your own are described by `columns`, `scored`, `ranked` or `compared` ([config](config.md#objectivespairs)).
For the public sets below a name and a dimension are enough:

```yaml
objectives:
  - name: helpful
    pairs:
      path: PKU-Alignment/PKU-SafeRLHF
      named: {dataset: pku-saferlhf, dimension: helpful}
  - name: harmless
    pairs:
      path: PKU-Alignment/PKU-SafeRLHF
      named: {dataset: pku-saferlhf, dimension: safer}
```

`path` is the hub id or local files with the same columns, which need no network. `split`, `subset`, `data_dir` and
`revision` work as everywhere.

- `min_gap` and `max_pairs_per_prompt` work as in `scored` where pairs are formed from scores. Where people compared two
  responses by a grade such as -3 to 3, grades not beyond `min_gap` become ties. Elsewhere they are refused (MS-272).
- Ties and missing labels make no pair and are counted. A row without a preference (MS-273) is refused, or left out and
  counted with `data.unusable_rows: drop`. A row without the columns of the set (MS-274) is refused: most likely it is
  another file, folder or subset.
- A set that somebody has already turned into pairs is no longer the named one. Such a file, with the safer response
  first in a list, is read by `columns: {chosen: response.0, rejected: response.1}`.
- modpo ships none of these data. Their licences bind you: some forbid commercial use.
"""
FORMS = {PairColumns: "pairs as given", ComparedColumns: "labelled comparisons", RankedColumns: "scores within a row"}


def data_page(datasets: Iterable[NamedDataset]) -> str:
    """The whole page."""
    datasets = tuple(datasets)
    lines = [INTRODUCTION, "| name | path | dimensions | licence |", "|---|---|---|---|"]
    for dataset in datasets:
        dimensions = ", ".join(f"`{name}`" for name in dataset.dimensions)
        path = f"`{dataset.hub_id}`" if dataset.hub_id else "local file"
        lines.append(f"| [{dataset.name}](#{dataset.name}) | {path} | {dimensions} | {dataset.licence} |")
    for dataset in datasets:
        lines += _section(dataset)
    return "\n".join(lines) + "\n"


def _section(dataset: NamedDataset) -> Iterator[str]:
    yield from ("", f"## {dataset.name}", "", "| dimension | the preferred response is | from |", "|---|---|---|")
    for name, dimension in dataset.dimensions.items():
        yield f"| `{name}` | {dimension.prefers} | {_origin(dimension.form)} |"
    yield from ("", f"- Home: <{dataset.home}>", f"- Columns read: {dataset.columns}", f"- Checked: {dataset.checked}")
    yield from (f"- {trap}" for trap in dataset.traps)


def _origin(form: Form) -> str:
    return FORMS.get(type(form), "scores of the rows of one prompt")
