from __future__ import annotations

from pathlib import Path

import pytest

from testbed.cgroups import UNIFIED, Hierarchy, below, entrances, own_hierarchies

_V1_MEMBERSHIPS = "4:memory:/jobs/7\n3:cpu,cpuacct:/\n1:name=systemd:/user\n0::/\n"
_V1_MOUNTS = """\
30 20 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
"""


def test_version_1_finds_the_own_folder_of_each_hierarchy() -> None:
    assert own_hierarchies(_V1_MEMBERSHIPS, _V1_MOUNTS) == [
        Hierarchy("memory", Path("/sys/fs/cgroup/memory/jobs/7")),
        Hierarchy("cpu,cpuacct", Path("/sys/fs/cgroup/cpu,cpuacct")),
        Hierarchy("name=systemd", Path("/sys/fs/cgroup/systemd/user")),
    ]


def test_version_1_inside_a_container_whose_mount_starts_at_its_own_group() -> None:
    mounts = "32 30 0:28 /docker/ab /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    found = own_hierarchies("4:memory:/docker/ab\n", mounts)
    assert found == [Hierarchy("memory", Path("/sys/fs/cgroup/memory"))]


def test_version_2_starts_at_the_mount_point_not_at_the_callers_group() -> None:
    mounts = "30 20 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
    found = own_hierarchies("0::/user.slice/session-1.scope\n", mounts)
    assert found == [Hierarchy(UNIFIED, Path("/sys/fs/cgroup"))]


def test_only_a_named_hierarchy_of_version_1_does_not_make_a_version_1_machine() -> None:
    mounts = _V1_MOUNTS.splitlines()[1] + "\n" + _V1_MOUNTS.splitlines()[4]
    found = own_hierarchies("1:name=systemd:/\n0::/\n", mounts)
    assert found == [Hierarchy(UNIFIED, Path("/sys/fs/cgroup/unified"))]


def test_no_hierarchy_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no cgroup"):
        own_hierarchies("0::/\n", "")


def test_processes_join_the_group_on_version_1_and_its_leaf_on_version_2() -> None:
    group = below([Hierarchy("memory", Path("/m")), Hierarchy(UNIFIED, Path("/u"))], "n1")
    assert entrances(group) == [Path("/m/n1/cgroup.procs"), Path("/u/n1/init/cgroup.procs")]
