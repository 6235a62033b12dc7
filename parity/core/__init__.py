"""What every check shares: taps, runs in lockstep, metrics, criteria, results."""
