"""Heat maps and curves, from numbers to the bytes of a picture; matplotlib is loaded by the first.

Colours, text and size are dealt with here, for every picture alike. One is drawn at a time.
"""
