"""The demo: every real basket is ordered once, through real worker processes, until all have ended.

Then two counts of the same goods, money and van places have to agree: see `domain.books`. What it
writes lies in one folder, or on the servers it is given; a second run carries on there.
"""
