"""The families of published architectures, one file each.

A family is a table of its tensor names, and functions that turn its library's description into a config. A new
model of a known family needs no code: `-b timm:MODEL.TAG`, `-b open_clip:MODEL/TAG`, `-b hf-hub:OWNER/NAME`.
"""
