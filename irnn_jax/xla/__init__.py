"""How XLA is made fast: layout, loops, chunks, precision. No mathematics, every threshold in `tuning`."""
