"""The metadata keys that are ours. Documented for users in docs/architecture.md."""

# With an answer: the version that gave it, why its attempt was made, and the request's id, which
# a caller may also send.
SERVED_BY = "modelyard-served-by"
ATTEMPT = "modelyard-attempt"
REQUEST_ID = "modelyard-request-id"
# With a call: critical, default or sheddable; who comes first where calls must wait.
PRIORITY = "modelyard-priority"
# With a call: whose it is, where several share a yard; written into the event log.
TENANT = "modelyard-tenant"
# From the gateway to a host: the version that is asked; a host of another one refuses.
TARGET = "modelyard-target"
# From the registry, with the answer to a change: the revision that it made.
REVISION = "modelyard-revision"
# To the registry, with a change: who makes it.
ACTOR = "modelyard-actor"
