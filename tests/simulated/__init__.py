"""What unit tests put in the place of engines, clusters and time. Nothing here is used outside tests."""
