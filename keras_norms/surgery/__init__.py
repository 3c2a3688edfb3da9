"""Surgery on models that exist: other norms, or none."""
