"""What the model is held against: Hugging Face's port, a float64 oracle, and seeded weights.

Nothing here knows `scratch_gpt` or `parity`. Importing this package alone loads no torch.
"""
