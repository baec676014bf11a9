"""A team of threads: each computes its part with one torch thread, and none waits for one that has failed."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from engines.embedded.thread_team import ThreadTeam


def test_no_part_goes_on_before_all_have_met():
    seen = []

    def work(part, meet):
        time.sleep(0.05 * part)
        seen.append(("before", part))
        meet()
        seen.append(("after", part))

    ThreadTeam(3).run(3, work)
    assert sorted(seen[:3]) == [("before", 0), ("before", 1), ("before", 2)]
    assert sorted(seen[3:]) == [("after", 0), ("after", 1), ("after", 2)]


def test_each_part_has_a_thread_of_its_own_with_one_torch_thread():
    found = {}

    def work(part, meet):
        meet()
        found[part] = threading.get_ident(), torch.get_num_threads()

    team = ThreadTeam(2)
    team.run(2, work)
    assert {threads for _, threads in found.values()} == {1}
    assert len({ident for ident, _ in found.values()} | {threading.get_ident()}) == 3
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("parts", [1, 2])
def test_an_error_is_the_team_s_and_lets_the_others_go(parts):
    def work(part, meet):
        if part == parts - 1:
            raise MemoryError("no room")
        meet()

    team = ThreadTeam(2)
    with pytest.raises(MemoryError, match="no room"):
        team.run(parts, work)
    done = []
    team.run(2, lambda part, meet: (meet(), done.append(part)))
    assert sorted(done) == [0, 1], "it works on after an error"


def test_a_part_alone_runs_in_the_caller_s_thread():
    threads = []
    ThreadTeam(2).run(1, lambda part, meet: (meet(), threads.append(threading.get_ident())))
    assert threads == [threading.get_ident()]
