"""What the doors that speak HTTP share: paths in URLs, bodies in both directions, credentials."""
