"""The operator at run time: kopf's watches wake a queue, workers run one loop for every resource."""
