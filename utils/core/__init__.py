"""Errors, files, terminal tables, processes and the command line, which every other room uses."""
