"""Independent implementations of GPT-1 and published data, which the model is compared with.

It imports neither `scratch_gpt` nor `parity`. Importing the package alone loads no torch.
"""
