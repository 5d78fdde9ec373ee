"""The list of named data sets, in the order of docs/data.md. A new set is a module of its own and one entry here."""

from __future__ import annotations

from modpo.data.named.beavertails import BEAVERTAILS
from modpo.data.named.dataset import NamedDataset
from modpo.data.named.helpsteer import HELPSTEER, HELPSTEER2, HELPSTEER3
from modpo.data.named.hh_rlhf import HH_RLHF
from modpo.data.named.pku import SAFERLHF, SAFERLHF_10K
from modpo.data.named.qa_feedback import QA_FEEDBACK, QA_FEEDBACK_CLOSED_BOOK
from modpo.data.named.shp import SHP
from modpo.data.named.summarize import SUMMARIZE, SUMMARIZE_AXES
from modpo.data.named.topical_chat import TOPICAL_CHAT
from modpo.data.named.ultrafeedback import ULTRAFEEDBACK
from modpo.errors import InputError, Problem, closest, shown

NAMED_DATASETS: tuple[NamedDataset, ...] = (
    SAFERLHF,
    SAFERLHF_10K,
    BEAVERTAILS,
    HH_RLHF,
    QA_FEEDBACK,
    QA_FEEDBACK_CLOSED_BOOK,
    ULTRAFEEDBACK,
    HELPSTEER,
    HELPSTEER2,
    HELPSTEER3,
    SUMMARIZE,
    SUMMARIZE_AXES,
    SHP,
    TOPICAL_CHAT,
)


def named_dataset(name: str) -> NamedDataset:
    """The data set of a name.

    Raises:
        InputError: no set has this name; the message lists those there are.
    """
    by_name = {dataset.name: dataset for dataset in NAMED_DATASETS}
    if name not in by_name:
        raise InputError(
            Problem(
                code="MS-270",
                what=f"no named data set of this name{closest(name, list(by_name))}",
                where="pairs.named.dataset",
                got=shown(name),
                wanted=f"one of {', '.join(by_name)}",
                remedy="take one of them, or name the columns of your rows in another form of `pairs`",
            )
        )
    return by_name[name]
