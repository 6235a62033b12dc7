"""One file for each verb of `python -m parity.check`."""
