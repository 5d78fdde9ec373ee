"""Cluster files and the image: read, held against Ray and against what all of them promise; nothing is started."""
