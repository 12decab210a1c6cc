from __future__ import annotations

from pathlib import Path

import pytest

from testbed import install
from testbed.golang import ETCD, GoModule
from testbed.images import linked
from testbed.install import NotInstallableError
from testbed.node import NodeSpec
from testbed.state import STARTING, UP, State, home_of


def test_missing_packages_are_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "present", lambda mark: mark not in ("containerd", "ctr", "nft"))
    assert install.missing() == ["containerd", "nftables"]


def test_without_root_the_command_to_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "present", lambda mark: mark != "nft")
    monkeypatch.setattr(install.shutil, "which", lambda *_: "/usr/bin/apt-get")
    monkeypatch.setattr(install.os, "geteuid", lambda: 1000)
    with pytest.raises(NotInstallableError, match="sudo apt-get install --no-install-recommends nftables"):
        install.install_packages()
    with pytest.raises(NotInstallableError, match="needs root"):
        install.require_root()


def test_machine_without_apt_is_told_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "present", lambda mark: mark != "runc")
    monkeypatch.setattr(install.shutil, "which", lambda *_: None)
    with pytest.raises(NotInstallableError, match=r"no apt-get.*runc"):
        install.install_packages()


def test_build_key_follows_versions_and_stamps() -> None:
    same = GoModule("etcd", ETCD.packages)
    stamped = GoModule("etcd", ETCD.packages, {"main.version": "2"})
    assert ETCD.key() == same.key()
    assert ETCD.key() != stamped.key()


def test_libraries_in_the_output_of_ldd() -> None:
    said = (
        "/x/a.so:\n\tlinux-vdso.so.1 (0x00007ffd)\n"
        "\tlibssl.so.3 => /lib/x86_64-linux-gnu/libssl.so.3 (0x00007f)\n"
        "\tlibgone.so.1 => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n/x/b:\n\tnot a dynamic executable\n"
    )
    assert list(linked(said)) == [
        ("libssl.so.3", Path("/lib/x86_64-linux-gnu/libssl.so.3")),
        ("ld-linux-x86-64.so.2", Path("/lib64/ld-linux-x86-64.so.2")),
    ]


@pytest.mark.parametrize("name", ["", "Big", "a" * 33, "-x", "a/b"])
def test_cluster_name_that_cannot_work(name: str) -> None:
    with pytest.raises(ValueError, match="cluster name"):
        home_of(name)


def test_cache_in_a_folder_that_nodes_do_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMMASPEC_CACHE", "/var/lib/cache")
    with pytest.raises(ValueError, match="cannot lie below"):
        home_of("x")


def test_state_is_found_again_and_half_written_state_is_none(tmp_path: Path) -> None:
    assert State.read(tmp_path) is None
    State(STARTING, [NodeSpec("n1", {"a": "b"})]).moved_to(UP, 7).write(tmp_path)
    found = State.read(tmp_path)
    assert found is not None
    assert (found.phase, found.port, list(found.nodes)) == (UP, 7, [NodeSpec("n1", {"a": "b"})])
    (tmp_path / "state.json").write_text('{"phase": "up", "nod')
    assert State.read(tmp_path) is None
