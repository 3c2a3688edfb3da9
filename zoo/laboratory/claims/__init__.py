"""The claims that studies judge, and their criteria: one module for each study.

They are fixed before the runs that they judge. A result names the commit that fixed them.
"""
