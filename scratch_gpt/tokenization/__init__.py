"""Text to ids and back: ways of splitting into words, byte pairs, vocabularies, learning one."""
