"""A run's model for other programs.

served.py      the module that is exported: images in, logits and probabilities out
onnx.py        as ONNX, for onnxruntime; predict_onnx.py: a program that exports contain
program.py     as a program of torch.export
merged.py      the backbone with the trained methods folded in, for timm or open_clip
comparison.py  the exported model beside the run's
"""
