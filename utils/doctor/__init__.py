"""The doctor: what a finished run's own figures say is wrong with it, and with the rows that it is asked to predict."""
