"""From an image file to its pixels, or to the reason for a failure.

decode.py        the entry: torchvision or Pillow, orientation, 16 bits
opening.py       opens regular files of a sensible size only
metadata.py      the picture without damaged or enormous metadata; pieces.py: a file composed of pieces of another
sixteen_bits.py  16 bits to 8, by the bits that are used; tiff.py: tags and pixels of TIFFs that Pillow misreads
problems.py      ImageError; recognise.py: the kind of a file that is not a supported picture
quiet.py         suppresses output of C libraries
"""
