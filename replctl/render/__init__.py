"""Configuration for other programs, made as text from the inventory and the live roles."""
