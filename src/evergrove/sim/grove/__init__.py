"""A whole grove in virtual time: devices, fogs, the link and the cloud, each of production parts, and each mortal."""
