"""Files of weights: read if they are sound, and written whole or not at all."""
