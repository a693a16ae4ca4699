"""The verbs of the command line as Python functions: each composes the rooms below and writes one folder."""
