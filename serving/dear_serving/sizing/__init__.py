"""How many GPUs, by arithmetic: pure but for reading its own figures. Runs in the ``dear`` command alone."""
