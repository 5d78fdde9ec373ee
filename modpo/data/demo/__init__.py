"""A self-made world: a small language, two objectives that conflict, and a response space that can be listed.

`language` says what can be said and how likely it is, `rewards` what is good, `world` writes the files of a sweep.
"""

WORLD_VERSION = 1
"""Raised when the same seed would write other files."""
