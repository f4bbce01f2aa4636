"""Settings of every command, as frozen dataclasses with their defaults and ranges; a string under a field explains it.

Fields that may be given by place are the positional arguments of the command line, all others its flags.
"""
