"""The processes of a device: the agent that owns it, the worker that trains and measures, the app's generator."""
