"""What the agent adds to a step of vLLM's own scheduler."""
