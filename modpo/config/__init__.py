"""The sweep file: a frozen typed tree (`tree`), how it is read (`load`) and cross-checked (`checks`)."""

from modpo.config.load import config_schema, load_config, parse_config, read_config
from modpo.config.tree import SweepConfig

__all__ = ["SweepConfig", "config_schema", "load_config", "parse_config", "read_config"]
