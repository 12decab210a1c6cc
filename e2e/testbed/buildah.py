"""operator/Dockerfile built for real, by buildah: the image that users build with Docker, without asking a registry.

Its base is pulled from nowhere: a Debian of the release that the base names, with its Python where the base has one.
Needs root, and of Debian: buildah, mmdebstrap, qemu-user-static.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from testbed.images import DOCKERFILE, REPOSITORY
from testbed.progress import step

RELEASE = "trixie"
PYTHON = "python3.13"
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"  # this machine's: package indexes may be behind a proxy of its own
_SECONDS = 900.0
_PACKAGES = f"{PYTHON},python3-pip,ca-certificates"
_BASE = f"""FROM scratch
ADD root.tar /
RUN cd /usr/local && ln -s /usr/bin/{PYTHON} bin/python3 && ln -s /usr/bin/{PYTHON} bin/python \\
 && rm -rf lib/{PYTHON}/dist-packages && mkdir -p lib/{PYTHON}/site-packages \\
 && ln -s site-packages lib/{PYTHON}/dist-packages && rm -f /usr/lib/{PYTHON}/EXTERNALLY-MANAGED
ENV SSL_CERT_FILE={AUTHORITIES}
"""


class Buildah:
    """buildah with a store of its own in a folder. `base` makes the stand-in for the base, once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = [
            "buildah",
            "--storage-driver=overlay",
            f"--root={folder / 'store'}",
            f"--runroot={folder / 'run'}",
        ]

    def __call__(self, *arguments: str) -> str:
        """Run a command; returns what it wrote to stdout. Raises RuntimeError with the end of what it said."""
        return _run([*self.command, *arguments])

    def close(self) -> None:
        """Remove containers and images: they are gigabytes."""
        self("rm", "--all")
        self("rmi", "--all", "--force")

    def base(self) -> str:
        """The base's name."""
        context = self.folder / "base"
        context.mkdir()
        (context / "Dockerfile").write_text(_BASE)
        debian(context / "root.tar")
        with step("the base of the operator's image"):
            self("bud", "--isolation=chroot", "--tag=localhost/base", str(context))
        return "localhost/base"

    def operator(self, base: str, architecture: str) -> str:
        """Build operator/Dockerfile for a platform; returns the image's name.

        buildah 1.28 does not know BUILDPLATFORM by itself. The last stage only copies, so that the base may be of this
        machine's architecture whatever the image is for.
        """
        name = f"localhost/operator:{architecture}"
        own = f"linux/{own_architecture()}"
        arguments = [
            f"--build-arg=BASE={base}",
            f"--build-arg=BUILDPLATFORM={own}",
            f"--volume={AUTHORITIES}:{AUTHORITIES}:ro",
        ]
        with step(f"the operator's image for {architecture}, by buildah"):
            self(
                "bud",
                "--isolation=chroot",
                f"--platform=linux/{architecture}",
                *arguments,
                f"--tag={name}",
                f"--file={DOCKERFILE}",
                str(REPOSITORY),
            )
        return name

    def config(self, image: str) -> dict[str, Any]:
        """Platform and configuration of an image, in OCI's words."""
        return dict(json.loads(self("inspect", "--type=image", image))["OCIv1"])

    def mounted(self, image: str) -> tuple[str, Path]:
        """A container of an image, and where its files are."""
        container = self("from", "--pull-never", image).strip()
        return container, Path(self("mount", container).strip())


def own_architecture() -> str:
    """This machine's, as Debian and OCI call it."""
    return _run(["dpkg", "--print-architecture"]).strip()


def debian(tar: Path, architecture: str | None = None) -> None:
    """Files of a Debian with Python. For another architecture they are unpacked only: nothing of it can run here."""
    foreign = [f"--architectures={architecture}", "--variant=extract"] if architecture else ["--variant=minbase"]
    with step(f"Debian {RELEASE}{f' for {architecture}' if architecture else ''} by mmdebstrap"):
        # From where is mmdebstrap's own default: Debian's mirrors.
        _run(["mmdebstrap", *foreign, f"--include=base-files,{_PACKAGES}", RELEASE, str(tar)])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:8])}: {done.stderr[-2000:]}")
    return done.stdout
