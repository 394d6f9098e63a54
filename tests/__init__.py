"""The test suite. README.md beside this file says how to run it and where a new test goes."""
