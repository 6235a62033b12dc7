"""Byte-pair encoding: text to token ids and back, vocabularies, and training of merges."""
