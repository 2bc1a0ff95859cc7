"""A run's findings as report.json, report.html and pictures."""

import dataclasses
import json
from pathlib import Path

from wakeword_keras import json_file
from wakeword_keras.evaluation.findings import Findings
from wakeword_keras.files import write_bytes
from wakeword_keras.report import figures, nearest, page, style
from wakeword_keras.report.verdicts import verdicts


def write(findings: Findings, run_dir: str | Path, out_dir: str | Path | None = None) -> None:
    """Write the report of a run: report.json, report.html and the page's pictures as PNG.

    report.json follows report_schema.json. Learning curves are drawn from each stage's history.csv
    where it exists, and what came nearest to firing in training is listed.

    Args:
      findings: from `findings.measure`.
      run_dir: the run.
      out_dir: made if missing, its files are replaced one by one; report/ of the run by default.

    Raises:
      InputError: a history.csv is not a table of numbers, or a hard_negatives.json is damaged.
      ValueError: a figure of the report is NaN or infinite.
    """
    out = Path(out_dir or Path(run_dir) / "report")
    out.mkdir(parents=True, exist_ok=True)
    judged = verdicts(findings)
    content = findings.to_json() | {"verdicts": [dataclasses.asdict(v) for v in judged]}
    # As it will be read, lists for tuples; NaN is found before anything is written.
    content = json.loads(json.dumps(content, allow_nan=False))
    svgs = {}
    for name, figure in figures.figures(findings, Path(run_dir)):
        write_bytes(out / f"{name}.png", style.to_png(figure))
        svgs[name] = style.to_svg(figure, name)
    found = nearest.write(Path(run_dir), out)
    write_bytes(out / "report.html", page.render(findings, judged, svgs, found).encode())
    json_file.write_sealed(out / "report.json", content)


def page_of(findings: Findings) -> str:
    """The page of findings without a run: report.html but for learning curves.

    Args:
      findings: from `findings.of_clips`.

    Returns:
      HTML, complete.
    """
    drawn = figures.figures(findings, None)
    svgs = {name: style.to_svg(figure, name) for name, figure in drawn}
    return page.render(findings, verdicts(findings), svgs)
