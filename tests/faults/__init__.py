"""Faults between the operator and the API server, and whether every scenario still ends as without them."""
