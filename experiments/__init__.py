"""The paper's experiments; each is `python -m experiments.<name> key=value ...`."""
