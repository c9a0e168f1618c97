"""The pure heart: records, namespace, merge rule, digests. No clock, no disk, no network, no randomness."""
