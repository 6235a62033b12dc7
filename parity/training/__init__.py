"""Training steps of both sides: how they are made, where they are compared, how they go wrong."""
