"""PKU-SafeRLHF, in its present form and as the 10K subset: two responses, one label of help and one of safety."""

from __future__ import annotations

from collections.abc import Iterable

from modpo.config.sources import ComparedColumns, RankedColumns
from modpo.data.named.dataset import Dimension, NamedDataset, RawRow, read

HELPFUL = Dimension(prefers="more helpful, judged apart from safety", form=ComparedColumns(label="better_response_id"))
SAFER = Dimension(prefers="safer, judged apart from help", form=ComparedColumns(label="safer_response_id"))


def by_severity(row: RawRow) -> Iterable[RawRow]:
    """Severity is a level of harm, 0 (safe) to 3 (severe): the score is its negative."""
    responses = [read(row, f"response_{side}", str) for side in (0, 1)]
    scores = [-read(row, f"response_{side}_severity_level", int) for side in (0, 1)]
    yield {"prompt": read(row, "prompt", str), "responses": responses, "scores": scores}


SAFERLHF = NamedDataset(
    name="pku-saferlhf",
    hub_id="PKU-Alignment/PKU-SafeRLHF",
    home="https://huggingface.co/datasets/PKU-Alignment/PKU-SafeRLHF",
    licence="CC BY-NC 4.0",
    dimensions={
        "helpful": HELPFUL,
        "safer": SAFER,
        "severity": Dimension(
            prefers="less severe harm; equal levels, such as two safe responses, are ties",
            form=RankedColumns(scores="scores"),
            transform=by_severity,
        ),
    },
    columns=(
        "`prompt`, `response_0`, `response_1`, `better_response_id`, `safer_response_id` (0 or 1), "
        "`response_0_severity_level`, `response_1_severity_level` (0 to 3)"
    ),
    checked="the card for the two dimensions and the licence; severity columns and their range by code that reads them",
    traps=(
        "The ids name the preferred response: 0 is `response_0`.",
        "`safer` also labels pairs of two safe or two unsafe responses; `severity` counts such equals as ties.",
        "Older revisions, before `Add harm category label and severity level label` (2024), have no severity.",
        "The texts are offensive: it is safety data.",
    ),
)

SAFERLHF_10K = NamedDataset(
    name="pku-saferlhf-10k",
    hub_id="PKU-Alignment/PKU-SafeRLHF-10K",
    home="https://huggingface.co/datasets/PKU-Alignment/PKU-SafeRLHF-10K",
    licence="CC BY-NC 4.0",
    dimensions={"helpful": HELPFUL, "safer": SAFER},
    columns="`prompt`, `response_0`, `response_1`, `better_response_id`, `safer_response_id` (0 or 1)",
    checked="code that reads it and the card of its 30K sibling; its own card was not read",
    traps=("It has a `train` split only.",),
)
