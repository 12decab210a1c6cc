"""The command line: ``gemmaspec``, also as the kubectl plugin."""
