"""Stanford Human Preferences: two Reddit comments on a post, of which the later one has the higher score."""

from __future__ import annotations

from modpo.config.sources import ComparedColumns
from modpo.data.named.dataset import Dimension, NamedDataset

SHP = NamedDataset(
    name="shp",
    hub_id="stanfordnlp/SHP",
    home="https://huggingface.co/datasets/stanfordnlp/SHP",
    licence="Reddit API terms of use; no licence of its own",
    dimensions={
        "helpful": Dimension(
            prefers="more helpful by the votes of readers",
            form=ComparedColumns(
                prompt="history",
                first="human_ref_A",
                second="human_ref_B",
                label="labels",
                first_wins=(1,),
                second_wins=(0,),
            ),
        )
    },
    columns="`history`, `human_ref_A`, `human_ref_B`, `labels` (1: A is preferred, 0: B)",
    checked="a copy of the card",
    traps=(
        "1 means that A, the first, is preferred: the reverse of an index.",
        "A post has up to 1,225 pairs. The card advises at most five, and a `score_ratio` of 2 or more; neither is "
        "done here.",
    ),
)
