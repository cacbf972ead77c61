"""The time model: what a pass costs, what overlaps, and a cell of the table."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks import step_model
from benchmarks.step_model import DECODERS, GPUS, Gpu, GpuClock, Host, Load

GPU = Gpu("round", bytes_s=step_model.WEIGHT_BYTES / 10e-3, flop_s=1e15)
"""Reads the weights in 10 ms."""
HOST = Host(runner_s=2e-3, output_s=1e-3, token_s=0.0)


def step(tokens: int) -> SimpleNamespace:
    return SimpleNamespace(scheduled_new_reqs=[], total_num_scheduled_tokens=tokens)


def test_few_tokens_take_as_long_as_the_weights_and_many_as_long_as_their_products() -> None:
    assert GPU.pass_s(1, 0) == GPU.pass_s(100, 0) == pytest.approx(10e-3)
    assert GPU.pass_s(2000, 0) == pytest.approx(2000 * 15e9 / 0.5e15)


def test_cached_tokens_are_read_too() -> None:
    assert GPU.pass_s(1, 10_000) > GPU.pass_s(1, 0)


def test_a_step_at_a_time_shows_all_host_time_but_that_of_masks() -> None:
    clock = GpuClock(GPU, HOST)
    for _ in range(2):
        clock.scheduled(step(1), 0, schedule_s=3e-3, mask_s=5e-3)
        clock.processed(update_s=4e-3)
    assert clock.now_s == pytest.approx(2 * (3 + 2 + 10 + 1 + 4) * 1e-3)


def test_masks_that_take_longer_than_the_pass_show() -> None:
    clock = GpuClock(GPU, HOST)
    clock.scheduled(step(1), 0, schedule_s=3e-3, mask_s=50e-3)
    clock.processed(update_s=0.0)
    assert clock.now_s == pytest.approx((3 + 50 + 1) * 1e-3)


def test_steps_ahead_hide_the_host_behind_the_pass_before() -> None:
    clock = GpuClock(GPU, HOST)
    clock.scheduled(step(1), 0, schedule_s=1e-3, mask_s=0.0)
    for _ in range(9):
        clock.scheduled(step(1), 0, schedule_s=1e-3, mask_s=0.0)
        clock.processed(update_s=1e-3)
    clock.processed(update_s=1e-3)
    assert clock.now_s == pytest.approx((1 + 2 + 10 * 10 + 1 + 1) * 1e-3)


@pytest.mark.integration
@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_a_list_takes_longer_than_its_floor(decoder: step_model.Decoder) -> None:
    cell = step_model.model(GPUS[0], decoder, Load(2), seed=0)
    assert cell["lists"] == 6
    assert cell["floor_s"] < cell["p50_s"] <= cell["p95_s"]
    assert cell["outputs"] <= step_model.PASSAGES - 1


def test_the_tables_say_that_nothing_was_measured() -> None:
    cell = {"gpu": "A100-80", "decoder": "any", "load": "1 callers"}
    figures = ("lists_s", "p50_s", "p95_s", "floor_s", "outputs", "pass_ms", "host_ms")
    (table,) = step_model.tables({"host": {}, "cells": [cell | dict.fromkeys(figures, 1.0)]})
    assert "modelled, not measured" in table.title
    assert "NOT MEASURED" in table.note
    assert len(table.rows[0]) == len(table.columns)
