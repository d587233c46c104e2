"""The catalogue: every law whose form is published and known, one file a family.

Constants carry their source and how far they can be trusted; none is used as a start of a fit.
"""
