"""The command line: :mod:`.parser` takes the arguments apart, a module of each command's name does the work."""
