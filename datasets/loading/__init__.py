"""From image files to batches on the device.

decode.py reads one file; crops.py cuts it; ../images.py uses both; sampler.py orders samples; loader.py and workers.py
make batches.
"""
