"""From decoded images to batches on the device.

crops.py cuts an image; ../images.py decodes and cuts; sampler.py orders samples; pool.py reads batches ahead, in worker
processes; workers.py has their number and messages; loader.py yields batches.
"""
