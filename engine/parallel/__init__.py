"""Ray on one computer or many: how it is reached, and rows through its workers.

Whoever imports Ray imports this room first: Ray reads some of its settings once, at its import.
"""

from engine.parallel.start.environment import set_local_defaults

set_local_defaults()
