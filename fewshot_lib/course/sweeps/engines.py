"""What runs the points: processes of this machine, the workers of a dask cluster, the jobs of SLURM.

Each is an executor of somebody else; ``sweep.run`` takes any other as well. Points are sent to workers that
have the same fewshot_lib installed and see the same disk.
"""

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fewshot_lib.core import extra, one_of, whole_number
from fewshot_lib.course.running.execution import cores

MEMORY = 10**9  # bytes that a point is taken to need, until one has shown what it takes
DASK, SECONDS = "dask://", 20  # that a scheduler gets to answer
DAY = 24 * 60  # minutes


class LocalKernels(ThreadPoolExecutor):
    """So many notebooks at a time on this machine, each in a process of its own: its kernel.

    A point starts only while the free memory holds as much as the largest one took so far, or while none is
    running. ``shutdown`` stops the kernels; the state keeps what had finished.
    """

    def __init__(self, jobs: int) -> None:
        whole_number(jobs=jobs)
        super().__init__(jobs)
        self._stopped = threading.Event()
        self._gate, self._running, self._most = threading.Lock(), 0, MEMORY

    def submit(self, run_point: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Runs ``run_point(*args, stopped=…)`` when its turn comes."""
        return super().submit(self._run, run_point, *args, **kwargs, stopped=self._stopped.is_set)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends everything, running kernels as well."""
        self._stopped.set()
        super().shutdown(wait, cancel_futures=True)

    def _run(self, run_point: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        while not self._may_start():
            time.sleep(0.5)
        try:
            ended = run_point(*args, **kwargs)
            self._most = max(self._most, ended.facts.get("peak_memory", 0))
            return ended
        finally:
            with self._gate:
                self._running -= 1

    def _may_start(self) -> bool:
        """Takes a place where there is memory for one more; also to the one that is to stop at once."""
        import psutil  # comes with ipykernel

        with self._gate:
            free = psutil.virtual_memory().available > self._most
            if started := free or not self._running or self._stopped.is_set():
                self._running += 1
            return started


@contextlib.contextmanager
def engine(
    where: str, *, jobs: int | None, threads: int, folder: Path, slurm: Mapping[str, Any]
) -> Iterator[tuple[Any, int | None]]:
    """The executor that ``--where`` names, and how many points it runs at a time (None: SLURM decides).

    jobs: of "local", by default as many as there are cores for. folder: for the logs of SLURM jobs.
    """
    check_where(where, jobs, threads, slurm)
    if where == "local":
        jobs = jobs or max(1, cores() // threads)
        with LocalKernels(jobs) as executor:
            yield executor, jobs
    elif where == "slurm":
        yield _slurm(folder, threads, slurm), None
    else:
        with _dask(where.removeprefix(DASK)) as client:
            yield client.get_executor(pure=False), sum(client.nthreads().values())


def check_where(where: str, jobs: int | None, threads: int, slurm: Mapping[str, Any]) -> None:
    """Refuses, before anything is planned, what no engine can be made from."""
    if not (where.startswith(DASK) and where != DASK):
        one_of("--where", where, ("local", "slurm", "dask://HOST:PORT"))
    if where != "local" and jobs is not None:
        raise ValueError("`--jobs` is for this machine; elsewhere the cluster decides. Leave it out.")
    if where != "slurm" and slurm:
        raise ValueError("`--slurm` says what to ask SLURM for: add --where slurm, or leave it out.")
    whole_number(threads=threads, **({} if jobs is None else {"jobs": jobs}))
    if where == "local" and jobs is not None and jobs * threads > cores():
        found = f"{jobs} jobs of {threads} thread{'s' if threads > 1 else ''} on {cores()} cores"
        raise ValueError(f"`--jobs` is too many, {found}: that takes many times as long. Give fewer.")


def _slurm(folder: Path, threads: int, options: Mapping[str, Any]) -> Any:
    """An executor of submitit, whose jobs write the same folders."""
    with extra("cluster"):
        import submitit
    if shutil.which("sbatch") is None:
        raise ValueError("There is no `sbatch` here: use --where slurm on a login node of the cluster.")
    executor = submitit.SlurmExecutor(folder)
    settings = {"cpus_per_task": threads, "time": DAY, "job_name": "fewshot"} | dict(options)
    try:
        executor.update_parameters(**settings)
    except ValueError as error:  # then all that it knows
        known = "use the names of submitit, such as partition, account, time, mem, gpus_per_node"
        raise ValueError(f"`--slurm`: {str(error).splitlines()[0]}: {known}.") from None
    return executor


@contextlib.contextmanager
def _dask(address: str) -> Iterator[Any]:
    """A client of the scheduler at this address."""
    with extra("cluster"):
        from distributed import Client
    try:
        client = Client(address, timeout=SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        found = f"No dask scheduler answers at {address} ({type(error).__name__})"
        raise ValueError(f"`--where`: {found}. Start one with `dask scheduler`, and workers.") from None
    try:
        if not client.nthreads():
            raise ValueError(
                f"The dask scheduler at {address} has no workers: start some with `dask worker`."
            )
        yield client
    finally:
        client.close()
