"""Live K on a real engine: `adaptive` against every static K while the kind of text changes."""
