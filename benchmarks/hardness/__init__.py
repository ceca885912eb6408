"""Tables, flags, folders and kills tried at random: none may end in a traceback, or in a wrong result in silence."""
