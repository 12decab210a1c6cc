"""A tiny trained Gemma 4 target with MTP assistants: real weights that real vLLM serves on a CPU."""
