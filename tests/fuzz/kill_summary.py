"""Figures of kills, per command and of all."""

from __future__ import annotations

from typing import Any

BAD = ("lost", "unreadable", "children", "trusted", "failed", "missing", "unexpected", "other_weights", "left")
"""Fields of a kill's result that are to be empty."""


def summary(results: list[dict[str, Any]], known: dict[str, tuple[int, float]]) -> dict[str, Any]:
    """Counts of all kills, and of each command's.

    Args:
        known: command → replaces of an undisturbed run, and seconds of its real work.
    """
    commands = {}
    for name, (replaces, seconds) in known.items():
        own = [result for result in results if result["command"] == name]
        hit = {tuple(result["at_replace"]) for result in own if result["at_replace"]}
        commands[name] = {
            "replaces": replaces, "seconds_of_work": round(seconds, 2), "moments_hit_of_replaces": len(hit),
            "moments_of_replaces": 2 * replaces, **figures(own),
        }  # fmt: skip
    return {**figures(results), "commands": commands}


def figures(results: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "kills": len(results),
        "at_a_replace": sum(bool(result["at_replace"]) for result in results),
        "at_a_random_time": sum(not result["at_replace"] for result in results),
        "over_an_earlier_run": sum(result["over"] for result in results),
        "drawn_again": sum(result["drawn_again"] for result in results),
        "lost_files": sum(len(result["lost"]) for result in results),
        "unreadable_trees": sum(bool(result["unreadable"]) for result in results),
        "children_left": sum(len(result["children"]) for result in results),
        "seconds_until_children_ended_at_most": max((result["children_s"] for result in results), default=0.0),
        "left_temporaries": sum(bool(result["temporaries"]) for result in results),
        "left_temporaries_after_the_next_command": sum(bool(result["left"]) for result in results),
        "next_command_failed": sum(bool(result["failed"]) for result in results),
        "next_command_inconclusive": sum(result["inconclusive"] for result in results),
        "other_files_than_expected": sum(bool(result["missing"] or result["unexpected"]) for result in results),
        "other_weights": sum(bool(result["other_weights"]) for result in results),
        "models_apart_from_their_sidecar": sum(len(result["apart"]) for result in results),
        "of_these_taken_by_a_reader": sum(len(result["trusted"]) for result in results),
    }
