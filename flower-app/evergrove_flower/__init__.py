"""The Flower app of Evergrove: two names that Flower looks up. What they do is in `evergrove.adapters.flower`."""
