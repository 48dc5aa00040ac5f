"""HTTP without torch. app: routes; schemas: what may be asked; media: pictures; answers; errors; page; server."""
