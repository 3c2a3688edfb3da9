"""The laboratory: what runs the studies, judges their claims and shows their results."""
