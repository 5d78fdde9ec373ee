"""Public data sets by name: `named_dataset("pku-saferlhf")` knows their columns, labels and traps."""

from modpo.data.named.dataset import Dimension, Form, NamedDataset
from modpo.data.named.registry import NAMED_DATASETS, named_dataset

__all__ = ["NAMED_DATASETS", "Dimension", "Form", "NamedDataset", "named_dataset"]
