"""What ours is measured against: each peer is one server of the same model, in a process."""
