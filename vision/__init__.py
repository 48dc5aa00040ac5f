"""Pictures in, latents out.

image: any picture file -> uint8 array, safely, and the two ways to make it square; no torch.
fast_decode: the same for training, several times faster and a few levels off.
encoder: uint8 pixels -> patch features, by a CLIP, timm or built-in tower.
efficientnet: the built-in tower. resampler: patch features -> a fixed number of latents.
config: the shapes of all these. pretrained: published weights into towers. clip_keys: their names elsewhere.
strict_pillow: Pillow without the switches of the process around it.
"""
