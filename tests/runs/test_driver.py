import subprocess
import sys

HEAVY = {"torch", "diffusers", "deepspeed", "xformers"}


def test_the_driver_of_a_job_loads_no_networks() -> None:
    jobs = "engine.runs.jobs.resample, engine.runs.jobs.harmonize, engine.runs.jobs.edit_lesions"
    command = [sys.executable, "-c", f"import sys, {jobs}; print(*sys.modules)"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "engine.runs.jobs.generate" in loaded
    assert not HEAVY & set(loaded)
