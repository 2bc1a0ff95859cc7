import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_notebook_example_runs_and_quantizes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    names: dict = {}
    exec(example, names)
    int8, fp32 = (names[name].predict(names["features"], verbose=0) for name in ("int8", "fp32"))
    assert abs(int8 - fp32).max() < 1
    assert names["path"].stat().st_size > 50_000


def test_each_block_of_a_heading_that_ci_runs_is_one_line():
    for heading in ("Run it", "Test it"):
        block = re.search(rf"^## {heading}\n.*?^```\n(.*?)^```", README, re.M | re.S)
        assert block is not None
        assert block.group(1).count("\n") == 1


def test_every_link_leads_to_a_file():
    root = Path(__file__).parents[1]
    for page in ("README.md", "BUILD.md", "docs/results.md"):
        folder = (root / page).parent
        for link in re.findall(r"\]\(([^)#:]+)\)", (root / page).read_text()):
            assert (folder / link).is_file(), f"{page}: {link}"


def test_every_named_tool_and_flagfile_exists():
    root = Path(__file__).parents[1]
    for tool in re.findall(r"python -m tools\.(\w+)", README):
        assert (root / "tools" / f"{tool}.py").is_file(), tool
    for flagfile in re.findall(r"--flagfile=(flags/\S+)", README):
        assert (root / flagfile).is_file(), flagfile


def test_the_map_names_every_package_and_nothing_that_is_gone():
    root = Path(__file__).parents[1]
    build = (root / "BUILD.md").read_text()
    (the_map,) = re.findall(r"^## The map\n(.*?)^## ", build, re.M | re.S)
    library = [path for path in (root / "wakeword_keras").iterdir() if path.name[0] != "_"]
    rooms = [p.stem for p in library if p.suffix == ".py" or (p / "__init__.py").is_file()]
    rooms += [path.stem for path in (root / "wakeword_keras/quantization").glob("[a-z]*.py")]
    assert [name for name in rooms if not re.search(rf"[`/]{name}`", the_map)] == []
    for name in re.findall(r"`((?:\w+/)+\w+(?:\.\w+)?)`", build):
        places = [root / name, root / "wakeword_keras" / name]
        assert any(p.exists() or p.with_suffix(".py").is_file() for p in places), name
