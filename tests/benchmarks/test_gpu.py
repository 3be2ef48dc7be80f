"""The benchmarks' way on a GPU, on a CPU: sides in processes that are real, and a device that is not."""

from __future__ import annotations

import importlib
import importlib.util
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aha.errors import AhaError, SettingError
from aha.model.config import ModelConfig
from aha.model.decoder import build_decoder
from aha.model.folder import save_model
from aha.util.benchmarks import load_benchmark

load_benchmark("rollout")  # from here on benchmarks can be imported
device, rollout, setting, sides, train = (
    importlib.import_module(f"benchmarks.{name}") for name in ("device", "rollout", "setting", "sides", "train")
)
TINY = ModelConfig(
    model_type="qwen2", vocab_size=2048, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
)  # fmt: skip
CPU = torch.device("cpu")


class Event:
    """One of CUDA's, by this machine's clock."""

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, other: Event) -> float:
        return 1e3 * (other.at - self.at)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A device of which nothing is computed with; what it was asked, in order."""
    asked: list[str] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.Event", Event)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: SimpleNamespace(total_memory=80 << 30))
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: asked.append("peak") or 3 << 20)
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda name=name: asked.append(name))
    return asked


def test_what_a_device_can_do_is_measured_by_its_events(gpu: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "PRODUCT_ROWS", 128)
    monkeypatch.setattr(device, "READ_BYTES", 1 << 20)
    monkeypatch.setattr(Event, "elapsed_time", lambda self, other: 2.0)  # ms
    assert device.product_rate(torch.bfloat16, CPU) == 2 * 128**3 / 0.002
    assert device.read_rate(CPU) == (1 << 20) / 0.002
    assert gpu == ["synchronize"] * 24


def test_clock_and_memory_wait_for_the_kernels(gpu: list[str]) -> None:
    watch, peak = device.GpuStopwatch(), device.GpuPeak()
    time.sleep(0.05)
    assert watch.seconds() >= 0.05 > watch.read().cpu
    with peak:
        pass
    assert peak.mib == 3 and gpu == ["synchronize"] * 3 + ["reset_peak_memory_stats", "peak"]
    path = Path(rollout.__file__).parent / "peers" / "gpu_clock.py"
    spec = importlib.util.spec_from_file_location("gpu_clock", path)
    assert spec is not None and spec.loader is not None
    clock = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(clock)
    gpu.clear()
    taken = clock.measure(lambda: gpu.append("run"))
    assert gpu == ["reset_peak_memory_stats", "synchronize", "run", "synchronize", "peak", "empty_cache"]
    assert taken.keys() == {"wall", "cpu", "peak"} and taken["peak"] == 3


@pytest.mark.parametrize(
    ("bench", "options", "message"),
    [
        ("rollout", {"device": "cuda"}, r"device is 'cuda', but PyTorch .* finds no GPU here: take cpu"),
        ("train", {"device": "cuda"}, r"device is 'cuda', but PyTorch .* finds no GPU here: take cpu"),
        ("rollout", {"device": "gpu"}, "device is 'gpu': .*known: cpu, cuda"),
        ("rollout", {"shape": "L"}, "shape is 'L' and device 'cpu': .* take T or S"),
        ("rollout", {"shape": "X"}, "shape is 'X'; it must be one of T, S, L"),
        ("train", {"shape": "L"}, "--shape L on cpu: T .* on cuda also L"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    bench: str, options: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    common = {"repeat": 1, "peers": False, "dtype": "float32", "skew": False, "threads": 1}
    with pytest.raises(SettingError, match=message):
        load_benchmark(bench)(**common, **options)


def test_int8_is_refused_on_a_gpu(gpu: list[str]) -> None:
    with pytest.raises(SettingError, match="int8 is computed on a CPU alone, not on cuda"):
        rollout.measure(repeat=1, peers=False, dtype="int8", skew=False, threads=1, device="cuda")


def test_large_work_is_the_small_one_several_times() -> None:
    few, many = (setting.build_lengths(work, skew=True) for work in (setting.SMALL, setting.LARGE))
    assert sorted(sum(many, [])) == sorted(8 * length for length in sum(few, []) * 8)
    assert sum(map(sum, setting.build_lengths(setting.LARGE, skew=False))) == 512 * 1024
    assert setting.build_prompts(setting.LARGE)[:8] == setting.build_prompts()
    texts = [
        setting.describe(dtype="float32", skew=True, threads=1, repeat=1, work=work)["new_tokens"]
        for work in (setting.SMALL, setting.LARGE)
    ]
    assert texts[0] == "half 16, quarter 64, 3/16 128, 1/16 256"
    assert texts[1] == "half 128, quarter 512, 3/16 1024, 1/16 2048"


class FakeChild:
    """A side that samples nothing, in 2 seconds; those of few rows in 1."""

    launches: list[Any] = []

    def __init__(self, launch: Any, folder: Path) -> None:
        self.launches.append(launch)
        self.setting = json.loads((folder / "setting.json").read_text()) | launch.own
        self.first = [1] * len(self.setting["prompts"])

    def __enter__(self) -> FakeChild:
        return self

    def __exit__(self, *_: object) -> None: ...

    def run(self) -> tuple[Any, float]:
        few = len(self.setting["prompts"]) == 8
        return setting.Taken(1.0 if few else 4.0 if "transformers" in self.launches[-1].script else 2.0, 9.0), 7.0


@pytest.mark.parametrize("skew", [False, True])
def test_sampling_on_a_gpu_is_by_the_wall_and_of_64_rows_too(
    skew: bool, gpu: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "Child", FakeChild)
    monkeypatch.setattr(FakeChild, "launches", [])
    monkeypatch.setitem(rollout.SHAPES, "L", TINY)
    monkeypatch.setattr(rollout, "product_rate", lambda dtype, device: 1e12)
    monkeypatch.setattr(rollout, "read_rate", lambda device: 1e9)
    found = rollout.measure(
        repeat=1, peers=True, dtype="bfloat16", skew=skew, threads=1, device="cuda", vllm=Path("python")
    )
    few = [] if skew else ["aha, 64 rows"]
    limits = ["limit of the machine", "limit of the machine, 64 rows"][: 1 + len(few)]
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == ["aha", *few, "transformers.generate", *limits]
    assert {row["unit"] for row in found["rows"]} == {"tokens/s"}
    tokens = 512 * 512 if skew else 512 * 1024  # (128 / 2 + 512 / 4 + 1024 * 3 / 16 + 2048 / 16) * 512
    assert rows["transformers.generate"]["median"] == tokens / 4 and rows["aha"]["peak_rss_mib"] == 7
    if not skew:
        assert rows["aha, 64 rows"]["median"] == 64 * 1024
        assert rows["limit of the machine, 64 rows"]["median"] < rows["limit of the machine"]["median"]
        assert "aha, 64 rows" in found["notes"][0]
    assert found["ratios"].keys() == {"aha / transformers.generate"}
    assert found["ratios"]["aha / transformers.generate"].keys() == {"wall"}
    assert any("vLLM" in note and "left out" in note for note in found["notes"])
    assert found["setting"]["device"] == "a GPU" and found["setting"]["prompts"] == 64
    assert found["setting"]["shape"] == "L" and gpu == ["empty_cache"] * 2


def test_sides_take_their_own_prompts_and_engine(tmp_path: Path) -> None:
    """The processes themselves, with the settings of a GPU's but for the device."""
    save_model(build_decoder(TINY, seed=0, dtype=torch.bfloat16), TINY, tmp_path)
    prompts = setting.build_prompts()
    shared = {
        "prompts": prompts, "lengths": [[2, 3]] * 8, "dtype": "float32", "threads": 1, "device": "cpu",
        "engine": {"device": "cpu", "max_slots": 16, "cache_bytes": 1 << 24},
    }  # fmt: skip
    (tmp_path / "setting.json").write_text(json.dumps(shared))
    few = {"prompts": prompts[:2], "lengths": [[2, 3]] * 2}
    launches = {
        "aha": sides.Launch("aha_side.py"),
        "aha, few": sides.Launch("aha_side.py", own=few),
        "transformers.generate": sides.Launch("transformers_side.py"),
    }
    children = {name: sides.Child(launch, tmp_path) for name, launch in launches.items()}
    try:
        first = {name: child.first for name, child in children.items()}
        sides.check_same_model(first, least=1.0)
        assert [len(tokens) for tokens in first.values()] == [8, 2, 8]
        found = sides.run_in_turn(children, repeat=1)
        assert all(side.runs[0].wall > 0 and side.peak > 0 for side in found.values())
        with pytest.raises(AhaError, match="behind 0 of 2 prompts only"):
            sides.check_same_model({**first, "aha, few": [-1, -1]}, least=0.5)
    finally:
        for child in children.values():
            child.__exit__(None, None, None)


def test_training_on_a_gpu_says_how_much_of_the_products_an_update_uses(
    gpu: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [case for case in train.CASES if case.name[0] == "L"]
    assert [case.name for case in cases] == ["L GRPO", "L SFT"]

    def run_in_turn(case: Any, sides: Any, **_: Any) -> tuple[Any, Any, Any]:
        found = {name: setting.Side([setting.Taken(20.0, 1.0)], 5.0) for name in sides}
        return found, {} if case.packs else {"rollout": [12.0], "update": [8.0]}, dict.fromkeys(sides, 60_000.0)

    monkeypatch.setattr(train, "run_in_turn", run_in_turn)
    monkeypatch.setattr(train, "product_rate", lambda dtype, device: 8e14)
    found = train.measure(repeat=1, peers=False, dtype="bfloat16", skew=False, threads=1, device="cuda")
    body, head, score = 1_310_340_608, 151_936 * 1536, 4 * 12 * 128 * 28
    tokens, seen = 64 * 64 + 512 * 1024, 64 * 64**2 / 2 + 512 * 1024 * (64 + 512)
    update = 3 * (2 * body * tokens + 2 * head * 512 * 1024 + score * seen)
    assert found["model_flops_use"]["L GRPO"] == pytest.approx(update / (8 * 8e14))
    assert found["floors"]["L GRPO: aha"]["share"] == pytest.approx(4 / 3 * update / (20 * 8e14))
    documents = 3 * 60_000 * (2 * (body + head) + score * 100)
    assert found["model_flops_use"]["L SFT"] == pytest.approx(documents / (20 * 8e14))
    assert {row["unit"] for row in found["rows"]} == {"s/step", "s"} and found["setting"]["token_budget"] == 8_300
    assert any("L GRPO, aha: model FLOPs use of the update" in note for note in found["notes"])


def test_a_gpu_has_no_case_with_a_reference() -> None:
    assert [case.name for case in train.choose_cases("T", "cuda")] == ["T GRPO", "T SFT"]
    assert [case.name for case in train.choose_cases(None, "cuda")] == ["L GRPO", "L SFT"]
    assert [case.name for case in train.choose_cases(None, "cpu")] == [
        "T GRPO", "T GRPO, KL", "S GRPO", "S GRPO, KL", "T SFT"
    ]  # fmt: skip


@pytest.mark.parametrize("case", ["GRPO", "SFT"])
def test_a_step_runs_with_a_cases_own_sizes(case: str) -> None:
    sizes: dict[str, Any] = {"prompts": 2, "samples": 2, "new": 3} if case == "GRPO" else {"packs": 2, "pack": 2_000}
    said: list[Any] = []
    pipe = SimpleNamespace(send=said.append, recv=lambda: "go")
    turn = train.Turn(pipe, 2, "cpu")
    config = TINY.model_copy(update={"max_position_embeddings": 2048})
    train.train_aha(train.Case(f"L {case}", config, token_budget=90, **sizes), "bfloat16", turn)
    ready, first, second = said
    assert ready == "ready" and second[0].wall > 0
    if case == "GRPO":
        assert second[2].keys() == {"rollout", "update"}
    else:
        assert 2 * 2_000 <= second[3] < 2 * 2_000 + 1_024 and second[2] == {}
