"""The pass over blocks, the mergeable row statistics, and the readable reference formula."""
