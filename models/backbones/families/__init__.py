"""The families of published architectures: a file each.

A family is a table of its tensor names, and functions that turn its library's own description into a config. A new
model of a known family needs nothing here: `-b timm:MODEL.TAG`, `-b open_clip:MODEL/TAG`, `-b hf-hub:OWNER/NAME`.
"""
