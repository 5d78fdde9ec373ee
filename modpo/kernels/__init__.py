"""Faster exact routes through costly steps of a model's forward and backward pass."""
