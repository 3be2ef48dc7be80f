"""What a policy could write to please or to hang the judge of formulas, each with golds that it must not equal."""

from __future__ import annotations

from collections.abc import Iterator

GOLDS = ("7", "\\frac{1}{2}", "x^2+1", "\\{7,8\\}", "(0,1]", "\\text{even}")

LISTS = [
    "the answer is {g} or 8 or 9", "{g} or 0", "0 or {g}", "{g}, 99", "99, {g}", "{g} 99", "99 {g}", "{g}\n99",
    "either {g}",
    "\\{{g}, 99\\}", "[{g}, 99]", "({g}, 99)", "{g} \\text{ or } 99", "${g}$ or $99$", "{g}; 99", "{g} and 99",
    "{g} | 99",
    "not {g}", "\\neq {g}", "> {g}", "\\ge {g}", "\\pm {g}", "{g} \\pm 1", "-{g}", "{g}+1", "{g} \\cdot 2", "{g}\\%+1",
    "\\boxed{{g}} \\boxed{99}", "x={g} or x=99", "about {g} maybe", "{g}...", "{g}, \\ldots, 99", "{g}/0",
    "{g} million", "{g} \\times 10^6", "{g}?", "\\not= {g}", "{g} \\text{ is wrong, it is } 99", "{g}^{2}+99",
    "{g}!+99",
    "\\sqrt{{g}}+99", "sin({g})+99", "f({g})=99", "{g} = 99", "{g} \\to 99", "\\text{{g}} 99", "{g} \\mid 99",
    "{g}\\\\99",
]  # fmt: skip

BOMBS = [
    "10^10^10", "10^{10^{10}}", "9**9**9**9", "9^9^9^9", "99999!", "9!!!", "((9!)!)!", "{9^{9}}^{9^{9}}",
    "2^{99999999}",
    "2^{-99999999}", "1" * 5_000, "1/" + "9" * 5_000, "0." + "0" * 5_000 + "1", "1e999999999", "(10^9)^(10^9)",
    "\\binom{10^{9}}{10^{8}}", "\\sum_{k=1}^{10^{9}} k^{k}", "\\prod_{k=1}^{10^9} k", "\\int_0^1 x^{x^{x}} dx",
    "\\lim_{x\\to 0} \\frac{\\sin x}{x}", "\\sqrt[99999]{99999^{9999}}", "(x+1)^{9999}", "(x+y+z+w)^{99}",
    "x^{x^{x^{x^{x}}}}", "\\sin(\\cos(\\tan(\\sin(\\cos(\\tan(x))))))^{77}",
    "\\frac{(x+1)^{300}-(x-1)^{300}}{x^{200}+1}",
    "\\det\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}^{9999}", "\\Gamma(10^{9})", "\\log_{2}(2^{9999})+99", "77777^{7777}",
    "\\sqrt{\\sqrt{\\sqrt{2+\\sqrt{3}}+\\sqrt{5}}+\\sqrt{7}}", "x^{1000}+x^{999}+x^{998}=0",
    "((((((2^9)^9)^9)^9)^9)^9)^9",
    "\\sin(10^{9999})", "e^{e^{e^{e^{9}}}}", "e^{e^{79}}", "\\pi^{\\pi^{\\pi^{\\pi}}}", "3^{3^{3^{3}}}",
    "(-1)^{10^{99}+0.5}",
]  # fmt: skip

BRACKETS = ("(", "{", "[", "\\left(", "\\frac{", "\\sqrt{")
NESTED = [bracket * depth for depth in (30, 10_000, 300_000) for bracket in BRACKETS]
NESTED += ["(" * n + "7" + ")" * n + "+1" for n in (20, 40, 10_000)] + ["{" * 50 + "7" + "}" * 49]
NESTED += ["\\boxed{" * 1_000, "\\boxed{" * 100_000, "\\boxed{" * 999 + "99" + "}" * 999, "}" * 9_999, "\\frac" * 9_999]

LONG = ["a" * 1_000_000, "7 " * 500_000, "+7" * 500_000, "$" * 999_999, "\n" * 1_000_000 + "99"]
LONG += ["the answer is " * 70_000]

SCRIPTS = [
    "\uff17", "\u0667", "\u096d", "\u2166", "\u2466", "\u278a", "\u4e03", "\u2077", "\u2087", "\U0001d7d5",
    "7\u200b", "\u200b7",
    "\u202e7", "7\u2060", "\ufeff7", "\u00ad7", "7\x00", "\x007", "\x1b[7m", "7\x08", "\u20667\u2069", "\u2153",
    "\u00bc",
    "\ud800", "7\u0338", "\u22627", "\u00ac7", "7\u20dd", "7\u0660", "\u00a07\u00a08",
]  # fmt: skip

CODE = [
    "exit()", "quit()", "__import__('os')", "__import__('os').system('true')", "os._exit(0)", "sys.exit(0)",
    "open('/etc/passwd')",
    "eval('7')", "exec('x=7')", "lambda: 7", "S(7).__class__", "Symbol.__eq__ = lambda a, b: True", "''.join(['7'])",
    "int('7')",
    "globals()", "gold", "answer", "{gold}", "{problem.answer}", "$gold", "%s", "%(gold)s", "`7`", "<answer>",
    "</think>",
    "\\input{gold.txt}", "\\include{x}", "\\def\\x{7}\\x", "\\newcommand{\\x}{7}\\x", "\\write18{ls}",
    "\\csname x\\endcsname",
    "\\verb|7|", "\\href{x}{8}", "\\color{red}8", "\\unknown{8}", "\\begin{cases}8\\\\9\\end{cases}", "% 7",
    "NaN", "nan", "inf", "-inf", "oo", "zoo", "\\infty", "-\\infty", "True", "False", "None", "null", "undefined",
    "E", "I", "S",
    "\\emptyset", "\\varnothing", "\\{\\}", "()", "[]", "{}", "\\mathbb{R}", "\\mathbb{N}", "(-\\infty,\\infty)",
    "[7,7.5)", "0/0",
    "1/0", "\\frac{1}{0}", "\\frac{0}{0}", "x=x", "0=0", "\\text{}", "\\text{7 or 8}", "\\forall", "\\exists x", "y",
    "x", "\\",
    "", " ", "\n", "\t", ".", ",", "$", "$$", "$$$", "\\(", "\\)", "\\[\\]", "\\boxed", "\\boxed{", "\\boxed{}",
    "\\boxed{\\boxed{}}",
    "_", "^", "&", "#", "~", "'", '"', "-", "--", "+", "=", "!", "?", ":", ";", "/", "*", "**", "|", "<", ">", "@",
]  # fmt: skip


def hostile_pairs() -> Iterator[tuple[str, str]]:
    """(gold, text): the lists name the gold, the others meet every gold."""
    for gold in GOLDS:
        for text in LISTS:
            yield gold, text.replace("{g}", gold)
    for text in BOMBS + NESTED + LONG + SCRIPTS + CODE:
        for gold in GOLDS:
            yield gold, text

