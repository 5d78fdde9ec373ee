"""Preference data: rows from anywhere (`sources`), pairs (`pairs`), tokens (`tokenize`), one artefact (`prepare`)."""
