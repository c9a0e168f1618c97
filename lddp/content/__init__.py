"""Contents on a node's disk, pushed and pulled between nodes."""
