"""Compare tokenizers: token ids of many strings."""
