"""What keeps a TrainJob from its end, told in plain words at the next look, and what is done about it."""

import threading

import pytest
from cluster.kubernetes_objects import container, terminated
from lives import NAME, complete, ended, follow, nothing, running, script, waiting
from quick_pace import Impatient

from cliptea.cluster.follow import Pace
from cliptea.cluster.job import QUEUE, build
from cliptea.cluster.job_settings import JobSettings, Passed
from cliptea.cluster.kubernetes_api import TIMEOUT, ClusterError, connect
from cliptea.cluster.reasons import Trouble, hopeless

NO_NODE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
NO_NODE |= {"message": "0/3 nodes: 3 Insufficient nvidia.com/gpu"}
PREEMPTED = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "for another"}
RESTARTED = {"containerStatuses": [container({"running": {}}, lastState=terminated(137, "OOMKilled"))]}


def pod(phase, **status):
    return lambda server: server.pod("p0", phase, **status)


def event(reason, message="m", name=None):
    return lambda server: server.event(reason, message, name)


def suspended(server):
    server.suspend()


TROUBLES = {
    "no node": (pod("Pending", conditions=[NO_NODE]), "p0: no node can run it: 0/3 nodes: 3 Insufficient nvidia.com"),
    "wrong image": (
        pod("Pending", **waiting("ErrImagePull", "not found")),
        "p0: the image i:1 cannot be pulled: not found;",
    ),
    "registry": (
        pod("Pending", **waiting("ErrImagePull", "dial tcp: connection refused")),
        "p0: the image i:1 cannot be pulled: dial tcp: connection refused; check its name",
    ),
    "image again": (pod("Pending", **waiting("ImagePullBackOff", "m")), "p0: the image i:1 cannot be pulled: m; check"),
    "no secret": (
        pod("Pending", **waiting("CreateContainerConfigError", "m")),
        "p0: its container cannot be created: m;",
    ),
    "memory": (pod("Running", **RESTARTED), "p0: it ran out of memory (OOMKilled); give train more memory in the"),
    "killed": (
        pod("Failed", **ended(137)),
        "p0: its process ended with code 137 (killed by the node for lack of memory",
    ),
    "evicted": (pod("Failed", reason="Evicted", message="m"), "p0: evicted from its node or preempted: m"),
    "preempted": (pod("Running", conditions=[PREEMPTED]), "p0: evicted from its node or preempted: for another"),
    "node lost": (pod("Failed", reason="NodeLost", message="m"), "p0: evicted from its node or preempted: m"),
    "refused": (
        pod("Failed", containerStatuses=[], reason="UnexpectedAdmissionError", message="no healthy devices"),
        "p0: its node did not take it, shut down or restarted: no healthy devices",
    ),
    "node restarted": (pod("Failed", **ended(255, "Unknown")), "p0: its node or the container runtime restarted"),
    "stopped": (pod("Failed", **ended(75)), "p0: it was stopped on request and saved a checkpoint"),
    "full": (event("FailedCreate", "exceeded quota: gpus"), "its pods cannot be created: exceeded quota: gpus; wait"),
    "forbidden": (event("FailedCreate", "violates PodSecurity"), "its pods cannot be created: violates PodSecurity"),
    "no JobSet": (event("TrainJobResourcesCreationFailed", "m", NAME), f"{NAME}: its pods cannot be created: m"),
    "no volume": (event("FailedMount"), "a volume cannot be mounted: m"),
    "no runtime class": (event("FailedCreatePodSandBox"), "its node cannot start it: m"),
    "taint": (event("TaintManagerEviction"), "evicted from its node or preempted: m"),
    "suspended": (suspended, f"{NAME}: suspended, waiting to be admitted: TrainJob is suspended"),
}


@pytest.mark.parametrize(("act", "words"), TROUBLES.values(), ids=TROUBLES)
def test_each_is_told_once_at_the_next_look(kubernetes, capfd, act, words):
    told = []

    def next_look(server):
        told.append(capfd.readouterr().err)

    kubernetes.play = script(act, next_look, nothing, running, complete)
    follow()
    assert f"warning: {words}" in told[0] or f"warning: {NAME}-node-0: {words}" in told[0]
    assert words not in capfd.readouterr().err


def test_a_look_follows_another_within_a_minute():
    assert Pace.poll + sum(TIMEOUT) < 60  # also when one request takes as long as it may


def test_no_node_for_too_long_fails_and_frees_the_cluster(kubernetes):
    kubernetes.play = pod("Pending", conditions=[NO_NODE])
    with pytest.raises(ClusterError, match=r"did not start within .*: p0: no node can run it: 0/3 nodes"):
        follow(pending_seconds=1)
    assert kubernetes.deleted == [NAME]


def test_half_a_trainjob_has_not_started_and_holds_no_nodes_for_ever(kubernetes):
    kubernetes.play = script(lambda server: (server.pod("p0"), server.pod("p1", "Pending", index=1)))
    with pytest.raises(ClusterError, match=r"did not start within .*: cliptea-g-a-.*: 1 of 2 pods run"):
        follow(nodes=2, pending_seconds=1)
    assert kubernetes.deleted == [NAME]


def test_half_a_trainjob_that_fails_says_what_the_other_half_waits_for(kubernetes):
    def half(server):
        server.pod("p0")
        server.pod("p1", "Pending", index=1, conditions=[NO_NODE])

    def failing(server):
        server.pod("p0", "Failed", **ended(1))
        server.end("Failed", "jobset failed")

    kubernetes.play = script(half, failing)
    with pytest.raises(
        ClusterError, match=r"p0: .* code 1; not all of its pods ran: p1: no node can run it: 0/3 nodes"
    ):
        follow(nodes=2)


def test_all_pods_that_have_run_once_have_started(kubernetes):
    def all_run(server):
        server.pod("p0")
        server.pod("p1", index=1)

    def one_is_done(server):
        server.pod("p0", "Succeeded")

    kubernetes.play = script(all_run, *[one_is_done] * 60, complete)  # longer than what may be pending
    follow(nodes=2, pending_seconds=1)
    assert kubernetes.deleted == []


@pytest.mark.parametrize("trouble", ["wrong image", "no secret", "forbidden", "no JobSet"])
def test_what_never_starts_is_given_up(kubernetes, trouble):
    kubernetes.play, words = TROUBLES[trouble]
    with pytest.raises(ClusterError, match="training did not start within") as caught:
        follow(Impatient)
    assert words in str(caught.value)
    assert kubernetes.deleted == [NAME]


@pytest.mark.parametrize("trouble", ["no node", "full", "suspended", "registry", "image again"])
def test_what_may_start_later_is_waited_for(kubernetes, trouble):
    act, _ = TROUBLES[trouble]
    kubernetes.play = script(*[act] * 20, running, complete)  # longer than what is hopeless
    follow(Impatient)
    assert kubernetes.deleted == []


PULLING = 'failed to pull and unpack image "r/i:1": failed to resolve reference "r/i:1"'


@pytest.mark.parametrize(
    ("says", "lasts"),
    [
        (f"rpc error: code = NotFound desc = {PULLING}: r/i:1: not found", True),
        (f"rpc error: code = Unknown desc = {PULLING}: unexpected status: 401 Unauthorized", True),
        (f"rpc error: code = Unknown desc = {PULLING}: pull access denied, repository does not exist", True),
        (f"rpc error: code = Unknown desc = {PULLING}: x509: certificate signed by unknown authority", True),
        ('couldn\'t parse image name "r/I:1": invalid reference format: repository name must be lowercase', True),
        ('Container image "r/i:1" is not present with pull policy of Never', True),
        (f"rpc error: code = Unknown desc = {PULLING}: dial tcp 192.0.2.1:443: connect: connection refused", False),
        (f"rpc error: code = Unknown desc = {PULLING}: unexpected status: 429 Too Many Requests", False),
        ("toomanyrequests: You have reached your unauthenticated pull rate limit", False),
        ('Back-off pulling image "r/i:1"', False),
    ],
)
def test_an_image_is_only_given_up_if_its_registry_or_node_will_never_give_it(says, lasts):
    assert hopeless(Trouble("image", "p0", says)) == lasts


def test_an_image_that_comes_late_is_no_failure(kubernetes):
    kubernetes.play = script(TROUBLES["wrong image"][0], running, complete)
    follow()


def test_a_namespace_that_is_full_of_trainjobs_is_waited_for(kubernetes, capfd):
    kubernetes.refusal = f'trainjobs "{NAME}" is forbidden: exceeded quota: cliptea, used: 16, limited: 16'
    threading.Timer(0.3, setattr, (kubernetes, "refusal", "")).start()
    kubernetes.play = script(running, complete)
    follow()
    assert capfd.readouterr().err.count("warning: ") == 1
    kubernetes.jobs.clear()
    kubernetes.refusal = f'trainjobs "{NAME}" is forbidden: exceeded quota: cliptea, used: 16, limited: 16'
    with pytest.raises(ClusterError, match=r"namespace team has no room for a TrainJob: .* limited: 16"):
        follow(pending_seconds=1)


def test_a_quota_that_is_full_of_suspended_trainjobs_has_no_limit_in_a_queue(kubernetes):
    kubernetes.refusal = f'trainjobs "{NAME}" is forbidden: exceeded quota: cliptea, used: 16, limited: 16'
    threading.Timer(2.0, setattr, (kubernetes, "refusal", "")).start()
    kubernetes.play = script(pod("Pending"), running, complete)  # it has all of its time to start from then on
    follow(pending_seconds=1, labels={QUEUE: "gpu"})
    assert (len(kubernetes.created), kubernetes.deleted) == (1, [])


def test_a_trainjob_that_is_refused_is_told_in_the_clusters_words(kubernetes):
    kubernetes.refusal = 'admission webhook "v" denied the request: TrainingRuntime must be created before the TrainJob'
    with pytest.raises(ClusterError, match=r"403 to create trainjobs: .* TrainingRuntime must be created before"):
        follow()


def test_out_of_memory_is_told_in_plain_words(kubernetes):
    def killed(server):
        server.pod("p1", "Failed", index=1, **ended(1))
        server.pod("p0", "Failed", **ended(137, reason="OOMKilled"))
        server.end("Failed", "jobset failed")

    kubernetes.play = script(running, killed)
    with pytest.raises(ClusterError, match=r"p0: it ran out of memory \(OOMKilled\); give train more memory"):
        follow()
    assert len(kubernetes.created) == 1


def test_a_failure_names_the_code_and_the_last_line(kubernetes):
    def failing(server):
        server.logs["p0"] = ["2026-01-01T00:00:00Z error: the shard is damaged"]
        server.pod("p0", "Failed", **ended(1))
        server.end("Failed", "jobset failed")

    kubernetes.play = script(running, failing)
    with pytest.raises(
        ClusterError, match=r"p0: its process ended with code 1; its last line: error: the shard is damaged"
    ):
        follow()


def test_restarts_that_are_used_up_name_the_last_line(kubernetes, capfd):
    """A server that was away ends training by the same code as partners that have gone; its log tells which it was."""

    def leaves(server):
        server.logs["p0"] = ["2026-01-01T00:00:00Z error: S3 at http://s3:8333 does not answer"]
        server.pod("p0", "Failed", **ended(76))
        server.end("Failed", "jobset failed")

    kubernetes.play = leaves
    with pytest.raises(ClusterError) as caught:
        follow(restarts=1)
    assert len(kubernetes.created) == 2
    text = str(caught.value)
    assert "p0: the processes of other pods disappeared, or a server was unreachable" in text
    assert text.endswith("; its last line: error: S3 at http://s3:8333 does not answer")


NODE_RESTARTS = {
    **{
        reason: {"reason": reason, "message": "m", "containerStatuses": []}
        for reason in ("NodeAffinity", "NodeShutdown", "OutOfnvidia.com/gpu", "Terminated", "UnexpectedAdmissionError")
    },
    "runtime": ended(255, "Unknown"),
    "kubelet": ended(137, "ContainerStatusUnknown"),
}


@pytest.mark.parametrize("status", NODE_RESTARTS.values(), ids=NODE_RESTARTS)
def test_a_node_that_restarts_costs_one_restart(kubernetes, status):
    def restarts(server):
        server.pod("p0", "Failed", **status)
        server.end("Failed")

    kubernetes.play = script(restarts, running, complete)
    follow()
    assert len(kubernetes.created) == 2


def test_an_eviction_is_told_rather_than_its_unknown_container(kubernetes):
    def evicted(server):
        server.pod("p0", "Failed", **ended(137, "ContainerStatusUnknown"), reason="NodeLost", message="no heartbeat")
        server.end("Failed")

    kubernetes.play = evicted
    with pytest.raises(ClusterError, match="evicted from its node or preempted: no heartbeat"):
        follow(restarts=0)


def test_a_failure_without_pods_is_in_the_controllers_words(kubernetes):
    kubernetes.play = lambda server: server.end("Failed", "jobset failed")
    with pytest.raises(ClusterError, match=f"the TrainJob {NAME} failed: jobset failed"):
        follow()


def test_a_time_limit_is_no_eviction_though_its_pods_are_stopped(kubernetes):
    def late(server):
        server.pod("p0", "Failed", **ended(75))
        server.end("Failed", "TrainJob exceeded its active deadline", "DeadlineExceeded")

    kubernetes.play = script(running, late)
    with pytest.raises(ClusterError, match=r"it took longer than steps\.train\.seconds in the placement file"):
        follow()
    assert len(kubernetes.created) == 1


def test_a_warning_about_an_earlier_trainjob_of_the_name_is_old(kubernetes):
    connect().create(build("j", "g/a", "k", JobSettings(image="i:1"), Passed(), []))
    kubernetes.event("FailedCreate", "long ago")
    kubernetes.events[0]["lastTimestamp"] = "2020-01-01T00:00:00Z"
    kubernetes.play = script(nothing, running, complete)
    follow()


CREATION = ["FailedCreate", "JobCreationFailed", "TrainJobResourcesCreationFailed"]


@pytest.mark.parametrize("reason", CREATION)
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_warning_that_is_over_ends_no_trainjob(kubernetes, reason, nodes):
    """A webhook fails for a second; then the pods are created, and wait for long for a node."""

    def first_pod(server):
        server.pod("p0", "Pending", conditions=[NO_NODE])

    warned = event(reason, "failed calling webhook", NAME)
    kubernetes.play = script(
        warned, *[first_pod] * 40, *[lambda server: server.pod("p1", index=1)] * 2, running, complete
    )
    follow(Impatient, nodes=nodes)
    assert kubernetes.deleted == []


def test_a_warning_after_the_newest_pod_counts_while_pods_are_lacking(kubernetes):
    """Its time is that of the last repetition."""

    def refused(server):
        server.pod("p0")
        server.events = []
        server.event("TrainJobResourcesCreationFailed", "violates PodSecurity", NAME)
        again = {"count": 2, "lastObservedTime": "2100-01-01T00:00:00.000000Z"}
        server.events[0] |= {"series": again}

    kubernetes.play = refused
    with pytest.raises(ClusterError, match="violates PodSecurity"):
        follow(Impatient, nodes=2)


def test_a_job_that_a_queue_held_has_its_time_after_a_warning_from_before(kubernetes):
    """The warning is as old as the wait in the queue, and for a moment there are no pods yet."""

    def warned(server):
        suspended(server)
        if not server.events:
            server.event("TrainJobResourcesCreationFailed", "failed calling webhook", NAME)

    kubernetes.play = script(*[warned] * 60, lambda server: server.suspend(False), running, complete)
    follow(Impatient)
    assert kubernetes.deleted == []


@pytest.mark.parametrize(("verb", "resource"), [("create", "trainjobs"), ("list", "pods"), ("list", "events")])
def test_a_missing_right_is_named(kubernetes, verb, resource):
    kubernetes.denied = {(verb, resource)}
    with pytest.raises(ClusterError, match=f"may not {verb} {resource} in namespace team; expected the Role"):
        follow()
