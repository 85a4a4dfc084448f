"""The Python of the commands beside this folder."""
