"""What distinguishes one way to train from another: its config, what its loss reads, its scorer and its loss."""
