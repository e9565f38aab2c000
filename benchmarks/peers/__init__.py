"""What servers are measured with: models, peers and their environment, processes that really end, the load."""
