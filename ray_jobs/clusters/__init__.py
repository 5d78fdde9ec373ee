"""Cluster files for clouds other than cluster.yaml's, and the check of all of them."""
