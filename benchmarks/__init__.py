"""Figures about speed and memory, each by one command; results with machine and commit stand in `results/`."""
