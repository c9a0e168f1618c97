"""A deterministic simulator of whole ecosystems: production code on fake time, network, disks and files."""
