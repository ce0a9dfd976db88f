"""The evidence. Which suite needs what stands in CONTRIBUTING.md."""
