"""From image files to batches on the device: decoding, crops, the order of samples, the loader and its workers."""
