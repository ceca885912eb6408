"""What every room stands on: errors, files, tables, processes, the command line."""
