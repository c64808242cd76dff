"""From image lists to batches on the device: decoding, crops, order, workers."""
