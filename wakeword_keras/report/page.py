"""report.html: findings, verdicts and pictures on one page; it fetches nothing and has no script.

Style and pictures are inside the file. Lists that can be long show their worst rows and fold the
others; what is cut off altogether is in report.json, and the page says so.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from wakeword_keras.evaluation.findings import Findings
from wakeword_keras.report import figures, style
from wakeword_keras.report.nearest import Nearest
from wakeword_keras.report.verdicts import Verdict, between, percent
from wakeword_keras.streams import stream_metrics

_TEMPLATE = Path(__file__).with_name("report_template.html")
_SHOWN = 8
"""Rows of a long table that stand open."""
_FOLDED = 100
"""Rows of a long table that the page holds at all."""


def render(
    findings: Findings,
    verdicts: Sequence[Verdict],
    svgs: Mapping[str, str],
    nearest: Nearest | None = None,
) -> str:
    """The page.

    Args:
      findings: from `findings.measure`.
      verdicts: from `verdicts.verdicts`.
      svgs: pictures as <svg> elements, by the names that `figures.figures` gives them.
      nearest: what came nearest to firing in training, if the model listened.

    Returns:
      HTML in UTF-8, complete.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    environment.filters["between"] = between
    environment.filters["probability"] = _probability
    environment.filters["unbroken"] = lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%")
    return environment.from_string(_TEMPLATE.read_text()).render(
        report=findings.evaluated,
        agreements=findings.agreements,
        on_device=findings.on_device,
        step_by_step=findings.step_by_step,
        layers=findings.layers,
        coverage=findings.coverage,
        streams=findings.streams,
        mistaken=findings.mistaken,
        verdicts=verdicts,
        nearest=nearest,
        # Drawn by us; everything else on the page is escaped.
        pictures={name: Markup(svg) for name, svg in svgs.items()},
        names=style.MODEL_NAMES,
        step_name=figures.step_name,
        shown=_SHOWN,
        folded=_FOLDED,
        most_labels=figures.MOST_LABELS,
        rates_per_hour=stream_metrics.RATES_PER_HOUR,
        recall_within=stream_metrics.recall_within,
    )


def _probability(value: float) -> str:
    """Four digits, and never 1 or 0 for what only comes near."""
    if 0 < value < 0.0005:
        return f"{value:.1e}"
    if 0.9995 < value < 1:
        return f"1 − {1 - value:.1e}"
    return f"{value:.4f}"
