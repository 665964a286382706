"""The check itself: a pod that passes, and each way not to."""

import copy

import pytest
from restricted import violations

GOOD = {
    "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {"name": "a", "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}
    ],
    "volumes": [{"name": "tmp", "emptyDir": {}}],
}


def changed(path, value):
    pod = copy.deepcopy(GOOD)
    *parents, last = path
    place = pod
    for key in parents:
        place = place.setdefault(key, {}) if isinstance(place, dict) else place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return pod


def test_a_good_pod_passes():
    assert violations(GOOD) == []


C = ("containers", 0)
S = (*C, "securityContext")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("hostNetwork",), True, "hostNetwork"),
        (("hostPID",), True, "hostPID"),
        (("hostIPC",), True, "hostIPC"),
        (("volumes",), [{"name": "x", "hostPath": {"path": "/"}}], "volume x: hostPath"),
        (("volumes",), [{"name": "x", "nfs": {}}], "volume x: nfs"),
        (("securityContext", "sysctls"), [{"name": "kernel.msgmax", "value": "1"}], "sysctl kernel.msgmax"),
        (("securityContext", "runAsUser"), 0, "runAsUser 0"),
        (("securityContext", "runAsNonRoot"), None, "a: runAsNonRoot is not true"),
        (("securityContext", "seccompProfile"), None, "a: no seccompProfile"),
        (("securityContext", "seccompProfile", "type"), "Unconfined", "seccomp is unconfined"),
        (("securityContext", "seLinuxOptions"), {"user": "system_u"}, "SELinux options"),
        (("securityContext", "appArmorProfile"), {"type": "Unconfined"}, "AppArmor is unconfined"),
        (("securityContext", "windowsOptions"), {"hostProcess": True}, "hostProcess"),
        ((*S, "privileged"), True, "a: privileged"),
        ((*S, "allowPrivilegeEscalation"), None, "a: allowPrivilegeEscalation is not false"),
        ((*S, "procMount"), "Unmasked", "a: procMount"),
        ((*S, "capabilities", "drop"), ["NET_RAW"], "a: capabilities are not dropped"),
        ((*S, "capabilities", "add"), ["SYS_PTRACE"], "a: capabilities are added"),
        ((*S, "runAsNonRoot"), False, "a: runAsNonRoot is not true"),
        ((*S, "runAsUser"), 0, "a: runAsUser 0"),
        ((*S, "seccompProfile"), {"type": "Unconfined"}, "a: no seccompProfile"),
        ((*C, "ports"), [{"containerPort": 1, "hostPort": 1}], "a: hostPort"),
        ((*C, "livenessProbe"), {"httpGet": {"host": "other"}}, "a: probe of another host"),
    ],
)
def test_each_rule(path, value, says):
    assert says in violations(changed(path, value))


@pytest.mark.parametrize("kind", ["initContainers", "ephemeralContainers"])
def test_every_kind_of_container(kind):
    assert "b: capabilities are not dropped" in violations(GOOD | {kind: [{"name": "b"}]})
