"""The files that a public project has: what they name exists, and the Dockerfile copies all that the program needs."""

import re
import shutil
import subprocess
from pathlib import Path

import fork_server
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COPIED = [
    name for line in re.findall(r"(?m)^COPY (.*) /app/\S*$", DOCKERFILE) for name in line.split()
]  # files and folders, by their names in the project


def read_yaml(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_dockerfile_copies_what_exists():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert COPIED
    assert [name for name in COPIED if not (ROOT / name).exists()] == []
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == set(COPIED)


@pytest.mark.slow
def test_the_copied_files_are_the_whole_program(tmp_path):
    """They run in a folder of their own, from another one, as the container does."""
    for name in COPIED:
        source, copy = ROOT / name, tmp_path / "app" / name
        copy.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    (tmp_path / "work").mkdir()
    program = [tmp_path / "app/main.py", "-d", "digits_lt", "-b", "clip_tiny", "-m", "zs", "report", "False"]
    done = fork_server.run(program, cwd=tmp_path / "work")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "work/output/digits_lt_clip_tiny_zs/results.json").exists()


@pytest.mark.slow
def test_the_image_is_built_and_runs(tmp_path):
    """Where a docker daemon answers; the container's user is not root."""
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no docker here")
    image = "lift-plus-test"
    subprocess.run(["docker", "build", "--tag", image, "--build-arg", "DEVICE=cpu", ROOT], check=True)
    try:
        run = ["docker", "run", "--rm"]
        assert subprocess.check_output([*run, "--entrypoint", "id", image, "-u"], text=True).strip() != "0"
        command = [*run, image, "-d", "digits_lt", "-b", "clip_tiny", "-m", "zs"]
        assert "accuracy on digits_lt" in subprocess.check_output(command, text=True)
    finally:
        subprocess.run(["docker", "image", "rm", image], check=True)


@pytest.mark.parametrize("name", ["bug_report", "feature_request"])
def test_issue_forms_have_what_github_requires(name):
    form = read_yaml(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert {"name", "description", "body"} <= form.keys()
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids)
    assert all(field["attributes"]["label"] for field in form["body"])
    if name == "bug_report":
        required = {field["id"] for field in form["body"] if field.get("validations", {}).get("required")}
        assert {"command", "versions", "happened", "expected"} == required


def test_commits_are_checked_for_style_spelling_and_size():
    hooks = {hook["id"] for repository in read_yaml(".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]}
    assert hooks == {"ruff-check", "ruff-format", "codespell", "check-added-large-files", "end-of-file-fixer"}


def test_paths_and_targets_in_contributing_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    made = {".venv/bin/activate", "docs/"}
    links = re.findall(r"\]\(([^)#]+)\)", text)
    paths = re.findall(r"`((?:docs|tests|utils|scripts|benchmarks|models|datasets)/[^\s`]*)`", text)
    assert [path for path in [*links, *paths] if path not in made and not (ROOT / path).exists()] == []
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?m)^([\w-]+):", makefile))
    assert set(re.findall(r"(?:`|^    )make ([a-z][\w-]*)", text, re.MULTILINE)) <= targets
