"""Measuring a trained point on held-out prompts."""
