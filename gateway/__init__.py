"""The gateway: routes each call, runs its race, says who served it."""
