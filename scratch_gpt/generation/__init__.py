"""Text from a model: a cache of keys and values, decoding with it, beam search."""
