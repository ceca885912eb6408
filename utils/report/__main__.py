"""`python -m utils.report RUN`: make the report of a finished run again."""

from utils.report.page import main

main()
