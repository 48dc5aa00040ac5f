"""The command, one file a verb: each parses, calls one function of a package below, prints. main: the verb table."""
