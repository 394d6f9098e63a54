"""Drawn clusters, one a file: what replctl says of each and would do, word for word."""
