"""Mutations of specs from the resource's own schema, applied to a running operator."""
