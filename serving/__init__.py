"""A model behind HTTP. engine: the process that owns the model; http: the API, without torch; web: the page."""
