"""Memory's speed, energy, and what a decoding step reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from gptoss.checkpoint.memory import estimate_config
from gptoss.checkpoint.traffic import decode_bytes
from gptoss.measure import EnergyMeter, ReadProbe, cpu_name
from gptoss.published import GPT_OSS_20B


class TestDecodeBytes:
    def test_all_experts_and_no_context(self) -> None:
        """With all experts active, each weight is read once, but for the embedding's other rows."""
        config = dataclasses.replace(GPT_OSS_20B, num_experts_per_tok=32)
        for dense in ("bf16", "bf12", "q8"):
            weights = estimate_config("", config, 1024, dense=dense).weights
            row = weights["embedding"] / config.vocab_size
            everything = sum(weights.values()) - weights["embedding"] + row
            assert decode_bytes(config, dense=dense) == pytest.approx(everything, rel=1e-12)

    def test_active_experts_of_several_sequences(self) -> None:
        one, two, many = (decode_bytes(GPT_OSS_20B, sequences=n) for n in (1, 2, 1000))
        weights = estimate_config("", GPT_OSS_20B, 1024).weights
        experts = weights["experts"] + weights["expert biases"]
        row = weights["embedding"] / GPT_OSS_20B.vocab_size
        rest = sum(weights.values()) - experts - weights["embedding"]
        assert one == pytest.approx(rest + row + experts / 8)
        # The second meets an eighth of the experts that are left.
        assert two == pytest.approx(rest + 2 * row + experts * (1 - (7 / 8) ** 2))
        assert many == pytest.approx(rest + 1000 * row + experts)

    def test_keys_and_values(self) -> None:
        at = {depth: decode_bytes(GPT_OSS_20B, depth=depth) for depth in (0, 100, 128, 4096)}
        row = 2 * 8 * 64 * 2  # keys and values of a token in a layer, float16
        assert at[100] - at[0] == pytest.approx(24 * 100 * row)
        assert at[4096] - at[128] == pytest.approx(12 * (4096 - 128) * row)
        int8 = decode_bytes(GPT_OSS_20B, depth=4096, kv_cache_dtype="int8") - at[0]
        assert int8 == pytest.approx((at[4096] - at[0]) * 68 / 128)


def test_read_speed() -> None:
    assert 0.1 < ReadProbe(4_000_000).gb_s() < 10_000
    assert cpu_name()


class TestEnergy:
    @staticmethod
    def zone(folder: Path, name: str, energy: int) -> Path:
        zone = folder / name
        zone.mkdir(exist_ok=True)
        (zone / "energy_uj").write_text(f"{energy}\n")
        (zone / "max_energy_range_uj").write_text("1000000000\n")
        return zone

    def test_packages_are_added_and_counters_wrap(self, tmp_path: Path) -> None:
        self.zone(tmp_path, "intel-rapl:0", 5_000_000)
        self.zone(tmp_path, "intel-rapl:1", 999_000_000)
        self.zone(tmp_path, "intel-rapl:0:0", 7)  # a part of package 0
        meter = EnergyMeter(tmp_path)
        assert meter.source == "RAPL, 2 package(s)"
        self.zone(tmp_path, "intel-rapl:0", 8_000_000)
        self.zone(tmp_path, "intel-rapl:1", 1_500_000)
        assert meter.joules() == pytest.approx(3 + 2.5)
        assert meter.joules() == 0

    def test_nothing_to_read(self, tmp_path: Path) -> None:
        meter = EnergyMeter(tmp_path / "absent")
        assert (meter.source, meter.joules()) == (None, None)
        assert "no RAPL counters" in meter.why_not

    def test_counters_for_root_only(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        zone = self.zone(tmp_path, "intel-rapl:0", 1)
        read = Path.read_text

        def refuse(path: Path, *args: object, **named: object) -> str:
            if path.parent == zone:
                raise PermissionError(13, "Permission denied")
            return read(path)

        monkeypatch.setattr(Path, "read_text", refuse)
        meter = EnergyMeter(tmp_path)
        assert meter.joules() is None
        assert meter.why_not == f"{zone / 'energy_uj'}: Permission denied"
