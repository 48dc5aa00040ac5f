"""`kosmos data VERB`, one file a verb; `verbs` is their table."""
