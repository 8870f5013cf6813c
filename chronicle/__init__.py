"""Chronicle: the command. The house itself is in the folders beside this one (inside it, in an installed wheel)."""
