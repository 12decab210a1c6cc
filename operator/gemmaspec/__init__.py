"""GemmaSpecDeploy: a Kubernetes operator that serves Gemma 4 with speculative decoding on GB10 nodes."""

__version__ = "0.1.0"
