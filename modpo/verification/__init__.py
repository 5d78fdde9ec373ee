"""Whether what comes back from a sweep is the optimum of its objectives: a world so small that the optimum is known."""
