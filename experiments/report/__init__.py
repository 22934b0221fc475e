"""What a reader sees of an experiment: figures, tables, claims, and the report."""
