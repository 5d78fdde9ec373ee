"""From a config to trained points on a cluster. `plan` and `resources` are pure; the rest speaks Ray."""
