"""systemd: a sandboxed service, and a timer that restarts it when it no longer answers."""

from __future__ import annotations

from kanna.escaping import visible
from kanna.packaging import locked
from kanna.packaging.service import HEALTH, Service, probe
from kanna.packaging.targets.base import Target

PREFIX = "/opt/kanna"
_SANDBOX = """\
# What it may see and do
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProcSubset=all
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
NoNewPrivileges=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
LockPersonality=yes
RemoveIPC=yes
CapabilityBoundingSet=
AmbientCapabilities=
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
IPAddressDeny=any
IPAddressAllow=localhost

"""


def files(service: Service) -> dict[str, str]:
    """Returns the units (service, check of its health, timer, restart) and what is installed."""
    name = service.name
    return {
        f"systemd/{name}.service": _service(service),
        f"systemd/{name}-health.service": _health(service),
        f"systemd/{name}-health.timer": _timer(service),
        f"systemd/{name}-restart.service": _restart(service),
        locked.FILE: locked.requirements(service.extras),
    }


def _service(service: Service) -> str:
    resources = service.resources
    command = [
        f"{PREFIX}/bin/kanna",
        *service.arguments(root=PREFIX, state="%S/kanna", host="127.0.0.1"),
        "--keys",
    ]
    return f"""\
[Unit]
Description={_text(service.artefact.name)} served by kanna
Documentation=file:{PREFIX}/README.md
After=network.target
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=exec
ExecStart={_words(command)}
Environment=KANNA_STATE=%S/kanna HOME=%S/kanna PYTHONDONTWRITEBYTECODE=1
WorkingDirectory=%S/kanna
Restart=on-failure
RestartSec=2
TimeoutStopSec=30
KillMode=mixed

# Who it is
DynamicUser=yes
User=kanna
StateDirectory=kanna
StateDirectoryMode=0700
UMask=0077

# What it may take
MemoryHigh={resources.warning_mib}M
MemoryMax={resources.memory_mib}M
MemorySwapMax=0
CPUQuota={resources.cpus * 100}%
TasksMax=512
LimitNOFILE=65536
OOMPolicy=stop

{_SANDBOX}[Install]
WantedBy=multi-user.target
"""


def _health(service: Service) -> str:
    command = probe(HEALTH, python=f"{PREFIX}/bin/python", tries=3)
    return f"""\
[Unit]
Description=Whether {service.name} answers
Requisite={service.name}.service
After={service.name}.service
OnFailure={service.name}-restart.service

[Service]
Type=oneshot
ExecStart={_words(command)}
TimeoutStartSec=30
DynamicUser=yes
ProtectSystem=strict
ProtectHome=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
RestrictAddressFamilies=AF_INET AF_INET6
SystemCallFilter=@system-service
IPAddressDeny=any
IPAddressAllow=localhost
"""


def _timer(service: Service) -> str:
    return f"""\
[Unit]
Description=Ask {service.name} every half minute whether it answers

[Timer]
OnActiveSec=120
OnUnitInactiveSec=30
AccuracySec=5
Unit={service.name}-health.service

[Install]
WantedBy=timers.target
"""


def _restart(service: Service) -> str:
    return f"""\
[Unit]
Description=Restart {service.name}, which does not answer

[Service]
Type=oneshot
ExecStart=/usr/bin/systemctl try-restart {service.name}.service
"""


def _text(text: str) -> str:
    """Returns text as one line in which systemd expands nothing."""
    return visible(" ".join(text.split())).replace("%", "%%")


def _words(command: list[str]) -> str:
    """Returns a command line as systemd reads it: quoted, dollars doubled, no specifier but %S."""
    words: list[str] = []
    for word in command:
        escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
        escaped = visible(escaped)  # systemd reads the same escapes
        escaped = escaped.replace("%", "%%").replace("%%S/", "%S/")
        words.append(
            f'"{escaped}"'
            if escaped != word or " " in word or "'" in word or ";" in word
            else escaped
        )
    return " ".join(words)


def usage(service: Service) -> list[str]:
    """Returns the shell lines that start the service."""
    wheel = service.shipped
    pip = f"sudo {PREFIX}/bin/pip install --only-binary :all:"
    return [
        f"sudo python{wheel.python or 3} -m venv {PREFIX}",
        f"echo '{wheel.digest}  {wheel.place}' | sha256sum --check --strict",
        # What kanna needs comes by hash from the index; kanna itself from here alone.
        f"{pip} --require-hashes --requirement {locked.FILE}",
        f"{pip} --no-index './{wheel.place}[{service.extras}]'",
        f"sudo cp --recursive models README.md {PREFIX}/",
        "sudo cp systemd/*.service systemd/*.timer /etc/systemd/system/",
        "sudo systemctl daemon-reload",
        # Before the first start: then the folder is given to the service's own user.
        f"sudo {PREFIX}/bin/kanna keys create --name first --state /var/lib/kanna",
        f"sudo systemctl enable --now {service.name}.service {service.name}-health.timer",
    ]


TARGET = Target(
    title="a sandboxed systemd service",
    summary="systemd: a sandboxed service, and a timer that restarts it when it no longer answers",
    files=files,
    usage=usage,
)
