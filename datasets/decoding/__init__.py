"""From an image file to its pixels, or to the reason why there are none.

decode.py        the entry: torchvision or Pillow, orientation, 16 bits
opening.py       opens regular files of a sensible size only
metadata.py      the picture without its metadata, where these are damaged or enormous; pieces.py: a file made of pieces
sixteen_bits.py  16 bits to 8, by the bits that are used; tiff.py: tags and pixels of TIFFs that Pillow misreads
problems.py      ImageError; recognise.py: what a file is that is not a picture
quiet.py         no output of C libraries
"""
