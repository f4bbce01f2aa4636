"""The commands, a module for each group of them; they yield answers and print nothing.

What a command needs is imported when it runs, so that `--help` brings no torch.
"""
