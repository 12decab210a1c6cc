"""The only importers of the outside: the cluster's API, the engines' HTTP ports, files of this release."""
