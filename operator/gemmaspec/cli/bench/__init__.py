"""``gemmaspec bench``."""
