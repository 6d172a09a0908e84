"""A finished run looked at beside real cases, and beside the cheapest rivals on the same rows.

`reading` brings a volume, the real one of its mask and its rivals onto one grid the same way;
`worker` measures them; `tables` makes means over patients with intervals; `section` puts them on
the run's page. Which measures there are stands in `engine.evaluation`.
"""
