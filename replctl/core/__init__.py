"""What decides. Pure: the standard library only, and no I/O, clock, randomness or threads.

Everything here gets values and returns values; time enters as a field of what was observed. Whatever
asks a server, reads a file or prints stands elsewhere and calls in.
"""
