import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_notebook_example_runs_and_quantizes():
    (example,) = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    names: dict = {}
    exec(example, names)
    assert {r.layer for r in names["ranges"]} >= {"first_relu", "pool", "logit"}
    difference = names["qat"].predict(names["features"], verbose=0) - names["fp32"].predict(
        names["features"], verbose=0
    )
    assert abs(difference).max() < 1


def test_each_block_of_a_heading_that_ci_runs_is_one_line():
    for heading in ("Run it", "Test it"):
        block = re.search(rf"^## {heading}\n.*?^```\n(.*?)^```", README, re.M | re.S)
        assert block is not None
        assert block.group(1).count("\n") == 1


def test_every_named_tool_and_flagfile_exists():
    root = Path(__file__).parents[1]
    for tool in re.findall(r"python -m tools\.(\w+)", README):
        assert (root / "tools" / f"{tool}.py").is_file(), tool
    for flagfile in re.findall(r"--flagfile=(flags/\S+)", README):
        assert (root / flagfile).is_file(), flagfile
