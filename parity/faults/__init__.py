"""Known bugs, injected on purpose to measure what the checks catch."""
