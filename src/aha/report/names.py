"""How models, arms and numbers are written for people."""

from __future__ import annotations

from aha.report.reading import Measure

_MODELS = {
    "base": "Base",
    "untrained": "Untrained",
    "r1_zero": "R1-Zero",
    "random_reward": "Random reward",
    "dev1": "Dev1",
    "dev2": "Dev2",
    "dev3": "Dev3",
    "r1": "R1",
    "student_base": "Student base",
    "student_rl": "Student, direct RL",
    "student_distilled": "Student, distilled",
    "teacher_sft": "Teacher after SFT",
    "direct_rl": "Student, direct RL",
    "distilled": "Student, distilled",
    "logits": "Student, teacher's logits",
    "grpo": "GRPO",
    "ppo": "PPO",
    "rloo": "RLOO",
    "reinforce_pp": "REINFORCE++",
    "dr_grpo": "Dr. GRPO",
    "dapo": "DAPO",
    "gspo": "GSPO",
    "cispo": "CISPO",
    "rejection_sft": "Rejection sampling, SFT",
    "mcts_sft": "Tree search, SFT",
    "prm": "Process reward model",
    "process_rule": "Rule for steps",
    "random": "Random reward",
}
_PROPORTIONS = {"format", "language", "general", "preference", "accuracy", "truncated", "answered"}


def model_label(name: str) -> str:
    """``r1_zero`` -> ``R1-Zero``; an unknown name is read as words."""
    known = _MODELS.get(name)
    if known is not None:
        return known
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:] if words else name


def is_proportion(metric: str) -> bool:
    """Whether a metric lives in 0..1 and is shown in percent."""
    return metric in _PROPORTIONS or "@" in metric


def heading(metric: str) -> str:
    """A metric over a column: ``cons@16 %``."""
    name = "pass@1 again" if metric == "pass@1_again" else metric
    return f"{name} %" if is_proportion(metric) else name


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def points(difference: float) -> str:
    """A difference of two shares: ``+2.5 points``, ``−50.9 points``."""
    return f"{'−' if difference < 0 else '+'}{abs(100 * difference):.1f} points"


def number(value: float) -> str:
    """Three significant digits, without an exponent where a person would not write one."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.3g}"


def with_interval(measure: Measure, *, proportion: bool = True) -> str:
    """``80.5 % (78.1 to 82.9)``; without an interval the value alone."""
    value = percent(measure.value) if proportion else number(measure.value)
    if measure.low is None or measure.high is None:
        return value
    if proportion:
        return f"{value} ({100 * measure.low:.1f} to {100 * measure.high:.1f})"
    return f"{value} ({number(measure.low)} to {number(measure.high)})"


def duration(seconds: float | None) -> str:
    """``42 s``, ``3 min 05 s``, ``2 h 10 min``; a dash when not known."""
    if seconds is None:
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
