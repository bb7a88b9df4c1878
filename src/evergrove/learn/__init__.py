"""The only place that imports torch: the generator, how it is trained, and how it goes on learning.

Pictures come in as float32 (N, C, H, W) in [-1, 1] and conditions as int64 (N, F); where they come from is no concern
of this layer.
"""
