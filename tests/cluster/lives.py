"""A TrainJob that is followed at a quick pace, and acts of which its life is made."""

from cluster.kubernetes_objects import container, terminated
from cluster.quick_pace import Quick

from cliptea.cluster.follow import train
from cliptea.cluster.job import build, job_name
from cliptea.cluster.job_settings import JobSettings, Passed
from cliptea.cluster.kubernetes_api import connect

NAME = job_name("j", "g/a")


def follow(pace=Quick, **settings):
    chosen = JobSettings(image="i:1", **settings)
    train(connect(), build("j", "g/a", ["train"], chosen, Passed(), []), chosen, pace)


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


def ended(code, reason=""):
    return {"containerStatuses": [container(terminated(code, reason))]}


def waiting(reason, message):
    return {"containerStatuses": [container({"waiting": {"reason": reason, "message": message}})]}
