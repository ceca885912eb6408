"""What the scripts share, one subject a module."""

import logging

# At import bitsandbytes warns of a 4-bit CPU kernel it could not download; it has another one and works.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
