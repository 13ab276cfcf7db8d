"""The whole journey of a family on data that is on every machine: trained, exported, verified, shown."""
