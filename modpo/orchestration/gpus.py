"""What is known of GPUs by the names that Ray gives them."""

from __future__ import annotations

ACCELERATOR_LABEL = "ray.io/accelerator-type"

GPU_GIB = {
    "P4": 8.0,
    "P100": 16.0,
    "T4": 16.0,
    "V100": 32.0,
    "L4": 24.0,
    "A10G": 24.0,
    "L40S": 48.0,
    "A100-40G": 40.0,
    "A100": 80.0,
    "A100-80G": 80.0,
    "H100": 80.0,
    "H200": 141.0,
    "B200": 192.0,
}
"""Memory by Ray's type. Of what is sold with more or less memory under one name it is the larger: what does not fit
there fits nowhere."""

GPU_FLOPS = {
    "V100": 125e12,
    "T4": 65e12,
    "L4": 121e12,
    "A10G": 70e12,
    "L40S": 362e12,
    "A100-40G": 312e12,
    "A100": 312e12,
    "A100-80G": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
}
"""Operations a second in 16 bits, without sparsity, from the makers' data sheets."""
