"""Reward scorers: what turns a completion into a number, higher is better."""
