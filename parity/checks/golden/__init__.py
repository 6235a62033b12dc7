"""Compare the released weights' numbers with published ones."""
