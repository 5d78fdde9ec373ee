"""From a run's ledger to its front: figures, tables and one page. Starts in a second: no torch, no Ray."""
