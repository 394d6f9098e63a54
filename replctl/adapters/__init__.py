"""Frameworks: each module says the decisions of `core.routing` in the words of one of them."""
