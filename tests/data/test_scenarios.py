from __future__ import annotations

from clsweep.data.scenarios import SCENARIOS, Outputs

AGAIN = [[3, 1], [0, 2], [3, 1], [2, 4, 3]]  # the third is the first again, the last one larger, and partly new


def layer(scenario: str) -> Outputs:
    return SCENARIOS[scenario].outputs(AGAIN)


def active(of: Outputs, learned: int) -> list[list[int]]:
    return [list(of.active(context, learned)) for context in range(len(AGAIN))]


def test_a_task_that_comes_again_has_its_outputs_again() -> None:
    outputs = layer("task")
    assert outputs.n == 7
    assert active(outputs, 0) == active(outputs, 4) == [[0, 1], [2, 3], [0, 1], [4, 5, 6]]
    assert [list(labels) for labels in outputs.labels] == [[0, 1], [0, 1], [0, 1], [0, 1, 2]]


def test_domains_share_as_many_outputs_as_the_largest_has_classes() -> None:
    outputs = layer("domain")
    assert outputs.n == 3
    assert active(outputs, 0) == active(outputs, 4) == [[0, 1, 2]] * 4
    assert [list(labels) for labels in outputs.labels] == [[0, 1], [0, 1], [0, 1], [0, 1, 2]]


def test_a_class_has_one_output_wherever_it_is_shown() -> None:
    outputs = layer("class")
    assert outputs.n == 5
    assert [list(labels) for labels in outputs.labels] == [[0, 1], [2, 3], [0, 1], [3, 4, 0]]
    assert active(outputs, 0) == [[0, 1], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4]]
    assert active(outputs, 2) == active(outputs, 3) == [*[[0, 1, 2, 3]] * 3, [0, 1, 2, 3, 4]]
    assert active(outputs, 4) == [[0, 1, 2, 3, 4]] * 4
