"""The rules of Kubernetes' pod security standard "restricted" (with those of "baseline" that it holds), for one pod."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["violations"]

VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}  # fmt: skip
SELINUX = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
SECCOMP = {"RuntimeDefault", "Localhost"}


def violations(spec: dict[str, Any]) -> list[str]:
    """What in a pod's specification the standard forbids."""
    containers = [*spec["containers"], *spec.get("initContainers", []), *spec.get("ephemeralContainers", [])]
    found = list(_pod(spec))
    for container in containers:
        found += [f"{container['name']}: {text}" for text in _container(container, spec.get("securityContext", {}))]
    return found


def _pod(spec: dict[str, Any]) -> Iterator[str]:
    context = spec.get("securityContext", {})
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield field
    for volume in spec.get("volumes", []):
        for kind in set(volume) - {"name"} - VOLUMES:
            yield f"volume {volume['name']}: {kind}"
    for sysctl in context.get("sysctls", []):
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    if context.get("runAsUser") == 0:
        yield "runAsUser 0"
    yield from _either(context)


def _container(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("privileged"):
        yield "privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if context.get("procMount", "Default") != "Default":
        yield "procMount"
    capabilities = context.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities are not dropped"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities are added"
    if context.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot is not true"
    if context.get("runAsUser") == 0:
        yield "runAsUser 0"
    if context.get("seccompProfile", pod.get("seccompProfile", {})).get("type") not in SECCOMP:
        yield "no seccompProfile"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "hostPort"
    for handler in (*container.get("lifecycle", {}).values(), *(container.get(p, {}) for p in PROBES)):
        if any(handler.get(way, {}).get("host") for way in ("httpGet", "tcpSocket")):
            yield "probe of another host"
    yield from _either(context)


PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


def _either(context: dict[str, Any]) -> Iterator[str]:
    """Rules of both levels."""
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield "hostProcess"
    if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") == "Unconfined":
        yield "AppArmor is unconfined"
    if context.get("seccompProfile", {}).get("type") == "Unconfined":
        yield "seccomp is unconfined"
    options = context.get("seLinuxOptions", {})
    if options.get("type", "") not in SELINUX or options.get("user") or options.get("role"):
        yield "SELinux options"
