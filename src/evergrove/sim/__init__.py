"""The simulator: virtual time, plants, channels and disks, all of them adapters around the production reducers."""
