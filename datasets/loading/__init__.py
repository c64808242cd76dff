"""From decoded images to batches on the device.

crops.py crops an image; ../images.py decodes and crops; sampler.py orders samples; pool.py reads batches ahead, in
worker processes; workers.py has their number and messages; loader.py yields batches.
"""
