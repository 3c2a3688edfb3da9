"""Tasks: what a run of a study does, and what it measures."""
