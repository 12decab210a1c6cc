"""What runs inside the vLLM container: launcher, preflight, K policy, agent. The standard library and vllm only."""
