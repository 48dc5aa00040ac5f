"""Formats of others, one file each; `formats` is their table, `source` what each offers. No torch here."""
