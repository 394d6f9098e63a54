"""`replctl serve`: metrics, role endpoints, the status and a page over HTTP, from one look for all who ask.

`watch` looks, `roles` answers "is this the primary", `web` turns requests into answers, `connections` keeps
what is sent to us small and short, `agent` speaks HAProxy's agent protocol, `run` is the process.
docs/serve.md has it in words.
"""
