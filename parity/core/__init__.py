"""Shared by all checks: taps, runs in lockstep, metrics, criteria, results."""
