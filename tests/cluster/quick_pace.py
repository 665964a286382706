"""A pace at which a TrainJob's life takes a second."""

from cliptea.cluster.follow import Pace


class Quick(Pace):
    poll = 0.02
    outage = 0.6
    hopeless = 0.2
    gone = 1.0
