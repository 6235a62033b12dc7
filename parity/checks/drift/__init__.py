"""Compare the reports of several runs: what changed between versions, machines or code."""
