"""How XLA is made fast: layout, loops, chunks, precision; every threshold is in `tuning`."""
