"""Timings of the attention kernels and of whole models."""
