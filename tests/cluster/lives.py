"""A TrainJob that is followed at a quick pace, and acts of which its life is made."""

from quick_pace import Quick

from cliptea.cluster.api import connect
from cliptea.cluster.follow import train
from cliptea.cluster.job import build
from cliptea.cluster.settings import JobSettings, Passed

NAME = "cliptea-a-0"


def follow(pace=Quick, **settings):
    chosen = JobSettings(image="i:1", **settings)
    train(connect(), build(NAME, "g/a", "k", chosen, Passed(), []), chosen, pace)


def script(*acts):
    """Play one act at every look at the TrainJob, the last one again and again."""
    left = list(acts)

    def play(server):
        act = left.pop(0) if len(left) > 1 else left[0]
        act(server)

    return play


def nothing(server):
    pass


def running(server):
    server.pod("p0")


def complete(server):
    server.end("Complete")


def ended(code, **state):
    terminated = {"exitCode": code, **state}
    return {
        "containerStatuses": [
            {
                "name": "node",
                "image": "i:1",
                "imageID": "",
                "ready": False,
                "restartCount": 0,
                "state": {"terminated": terminated},
            }
        ]
    }


def waiting(reason, message):
    state = {"waiting": {"reason": reason, "message": message}}
    return {
        "containerStatuses": [
            {"name": "node", "image": "i:1", "imageID": "", "ready": False, "restartCount": 0, "state": state}
        ]
    }
