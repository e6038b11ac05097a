import pytest

from fewshot_lib.course import cli
from fewshot_lib.course.running import execution, runner
from fewshot_lib.course.sweeps import sweep
from fewshot_lib.course.sweeps.students import seed_of


@pytest.fixture(autouse=True)
def _here(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(execution, "cores", lambda: 2)


def test_a_sweep_from_the_command_line_goes_on_and_its_results_are_one_table(no_kernel, tmp_path, capsys):
    command = ["sweep", "01", "-p", "n_shot=1,5", "-p", "seed=0..2", "--profile", "smoke"]
    assert cli.main([*command, "--dry-run"]) == 0 and not (tmp_path / "build").exists()
    said = capsys.readouterr().out
    assert "6 points: 01_tiny × n_shot 1, 5 × seed 0, 1, 2; 0 finished already, 6 to run." in said
    assert "time unknown" in said and "MB free" in said and said.count("to run 01_tiny") == 6
    assert cli.main(command) == 0 and len(no_kernel) == 6
    assert cli.main([*command[:3], "n_shot=1,5,10", *command[4:]]) == 0 and len(no_kernel) == 9
    said = capsys.readouterr().out
    assert "6 finished already, 3 to run.\nIt takes about 3 s, 2 at a time, and " in said
    assert cli.main(["results", "build/sweep"]) == 0
    assert "3 seeds" in capsys.readouterr().out and (tmp_path / "build/sweep/results.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-p n_shots=1", "01_tiny has no parameter 'n_shots': did you mean 'n_shot'?"),
        ("--jobs 3", "`--jobs` is too many, 3 jobs of 1 thread on 2 cores"),
        ("--jobs 2 --threads 2", "2 jobs of 2 threads on 2 cores"),
        ("--jobs 0", "`jobs` is 0"),
        ("--where mars", "`--where` is 'mars': use one of 'local', 'slurm', 'dask://HOST:PORT'"),
        ("--where slurm --jobs 2", "`--jobs` is for this machine"),
        ("--slurm partition=gpu", "`--slurm` says what to ask SLURM for: add --where slurm"),
        ("--profile smoke -p profile=laptop", "give one of them"),
        ("--out notebooks/01_tiny.ipynb", "cannot be written (Not a directory)"),
        ("--timeout 0", "`timeout` is 0.0"),
    ],
)
def test_what_cannot_work_is_refused_before_a_kernel_starts(arguments, message, no_kernel, capsys):
    assert cli.main(["sweep", "01", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fewshot: ") and error.count("\n") == 1 and message in error and not no_kernel


def test_a_snakefile_is_written_and_nothing_runs(no_kernel, tmp_path, capsys):
    assert cli.main(["sweep", "01", "-p", "seed=0..1", "--export", "snakemake"]) == 0
    assert "snakemake --snakefile build/sweep/Snakefile" in capsys.readouterr().out and not no_kernel


def test_a_chapter_reports_over_training_seeds(no_kernel, tmp_path, capsys):
    assert cli.main(["run", "01", "--seeds", "0..2", "--profile", "smoke", "-p", "n_shot=5"]) == 0
    said = capsys.readouterr().out
    assert len(no_kernel) == 3 and "5-way 5-shot" in said and "3 seeds" in said
    assert (tmp_path / "build/course/results.csv").exists()
    assert cli.main(["run", "01", "--seeds", "0..3", "--profile", "smoke", "-p", "n_shot=5"]) == 0
    assert len(no_kernel) == 4


def test_a_student_runs_with_a_seed_of_their_own(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(runner, "run", lambda paths, values, out, **options: calls.append(values) or True)
    assert cli.main(["run", "01", "--student", "Ada", "--salt", "spring"]) == 0
    assert calls == [{"seed": seed_of("ada", "spring")}]
    assert cli.main(["run", "01", "--student", "Ada", "-p", "seed=3"]) == 2
    assert "`--student` and `-p seed` all set the seed: give one of them." in capsys.readouterr().err


def test_a_full_disk_is_refused_before_anything_runs(no_kernel, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "read_all", lambda out: {})
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 0}))
    assert cli.main(["sweep", "01"]) == 1 and not no_kernel
    assert "Nothing was run: free some space" in capsys.readouterr().err
