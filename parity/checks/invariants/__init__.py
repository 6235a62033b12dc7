"""The invariants check: properties that hold for every right GPT-1, without a reference."""
