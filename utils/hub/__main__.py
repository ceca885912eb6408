"""`python -m utils.hub push RUN`: push a finished run."""

from utils.hub.push import main

main()
