"""The paths of a run folder."""

from pathlib import Path

from equipoise.runtime.run_folder import RunFolder


def test_run_folder_names_every_path_that_a_run_writes() -> None:
    root = Path("runs/x")
    run = RunFolder(root)
    assert run.path == root
    paths = {
        "recipe.json": run.recipe,
        "environment.json": run.environment,
        "stages": run.stages,
        "stages/robust": run.stage("robust"),
        "model": run.model,
        "last": run.last,
        "records": run.records,
        "gallery": run.gallery,
        "evaluations": run.evaluations,
        ".lock": run.lock,
    }
    assert paths == {name: root / name for name in paths}


def test_run_folder_creates_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "new")
    assert not run.model.exists()
    assert not run.path.exists()


def test_run_folders_of_one_path_are_equal() -> None:
    assert RunFolder(Path("a")) == RunFolder(Path("a"))
    assert len({RunFolder(Path("a")), RunFolder(Path("a"))}) == 1
