"""The engine room: one training step and loop on DeepSpeed, in a plain process or under Ray alike."""
