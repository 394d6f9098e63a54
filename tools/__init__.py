"""What `make` runs besides the program and its tests."""
