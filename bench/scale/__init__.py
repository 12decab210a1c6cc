"""A thousand resources and more on a real API server with nodes that KWOK plays, beside LeaderWorkerSet."""
