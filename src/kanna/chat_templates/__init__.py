"""Chat templates are programs that strangers wrote, so they run in a process that may be killed.

`environment` is transformers' sandbox of Jinja2 with its steps counted, `worker` the process that
renders in it under limits of time, memory and output, and `pool` what starts these processes,
asks them, and kills one that does not answer.
"""

LIMIT, REFUSED = "limit", "refused"
"""Kinds of problems: the template wants more than it may have; it is broken, or raises."""
