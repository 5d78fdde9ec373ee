"""How a sweep stands faults, measured on real runs: `make reliability`, and docs/reliability.md for what it means."""
