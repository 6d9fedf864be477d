"""The whole yard on one machine: Redis, the registry, the hosts' supervisor and the gateway."""
