"""The commands, a module for each group of them: flags, and the one call they lead to.

What a command needs is imported when it runs, so that `--help` brings no torch. None of them prints:
each is handed an `Output`.
"""
