"""What is true without a disk, a clock or a network: contracts, access, markets, models, signals, pictures."""
