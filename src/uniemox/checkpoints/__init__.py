"""Models on disk: our folders, the weights of others, cards, and the hub."""
