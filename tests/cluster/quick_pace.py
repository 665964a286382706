"""A pace at which a TrainJob's life takes a second."""

from cliptea.cluster.follow import Pace


class Quick(Pace):
    poll = 0.02
    hopeless = 5.0  # so long that a busy machine gives nothing up that is waited for
    gone = 1.0
    again = 0.0


class Impatient(Quick):
    hopeless = 0.2
