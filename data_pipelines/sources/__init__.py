"""Formats of others, one file each: read a path, get records in the order of the file. No torch here."""
