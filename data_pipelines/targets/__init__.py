"""Documents out, in formats of others: one file each; `formats` is their table, `target` what each offers."""
