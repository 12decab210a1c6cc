// The program that holds a pod's namespaces open.
module gemmaspec.local/testbed/pause

go 1.26.0
