"""What the parts run in: wheels unpacked into a folder of their own, graphprune importable from the repository.

Only the standard library is needed, nothing is installed, and nothing outside the work folder is written.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parts import HERE

ROOT = HERE.parent.parent
RUNTIME = "onnxruntime_gpu"  # how the name of its wheel begins
_PROBE = """
import importlib.metadata, json, torch
import graphprune.cli.main
from graphprune import registry
import graphprune.compiler
cuda = torch.cuda.is_available()
print(json.dumps({
    "torch": torch.__version__,
    "transformers": importlib.metadata.version("transformers"),
    "card": torch.cuda.get_device_name() if cuda else None,
    "site": torch.__path__[0],
    "passes": registry.names("passes"),
}))
"""


class MachineError(Exception):
    """The machine lacks what the parts need; one line."""


@dataclass(frozen=True)
class Machine:
    """What was found: versions, the card (None without a GPU), and where torch is."""

    torch: str
    transformers: str
    card: str | None
    site: Path


def fits(wheel: Path) -> bool:
    """Say whether this Python can import what a wheel holds."""
    tag, abi, _ = wheel.stem.split("-")[-3:]
    version = sys.version_info
    if "py3" in tag.split(".") or abi == "abi3":
        return True
    return f"cp{version.major}{version.minor}" in tag.split(".")


def unpack_wheels(wheels: Sequence[Path], folder: Path) -> Path:
    """Unpack wheels into one new folder below `folder`, or find it there; a wheel is a zip file of what it installs."""
    key = hashlib.sha256("\n".join(f"{path.name} {path.stat().st_size}" for path in wheels).encode()).hexdigest()[:12]
    site, part = folder / f"site-{key}", folder / f".site-{key}.{os.getpid()}"
    if site.is_dir():
        return site
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(part)
    for library in [*part.glob("*.data/purelib"), *part.glob("*.data/platlib")]:
        shutil.copytree(library, part, dirs_exist_ok=True)
    part.replace(site)
    return site


def write_entry_points(folder: Path) -> Path:
    """Write what an installation would say of the project, so that its plug-ins are found; returns the folder."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = folder / "info" / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    lines = [
        line
        for group, points in groups.items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()), "")
    ]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    named = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(named, encoding="utf-8")
    return info.parent


def make_environment(work: Path, wheels: Path | None, tiny: bool) -> dict[str, str]:
    """The environment of the parts. Caches lie in the work folder, whatever of the machine is read-only."""
    work.mkdir(parents=True, exist_ok=True)
    found = sorted(wheels.glob("*.whl")) if wheels is not None else []
    found = [path for path in found if not path.name.startswith(RUNTIME)]
    unfit = [path.name for path in found if not fits(path)]
    if unfit:
        print(f"wheels not used, since {unfit[0]} is for another Python than {sys.version.split()[0]}", flush=True)
    sites = [unpack_wheels(found, work)] if found and not unfit else []
    path = [*map(str, (*sites, write_entry_points(work), ROOT)), os.environ.get("PYTHONPATH", "")]
    caches = {
        "TORCHINDUCTOR_CACHE_DIR": work / "inductor",
        "TRITON_CACHE_DIR": work / "triton",
        "XDG_CACHE_HOME": work / "cache",
        "HF_HOME": work / "hf",
        "TMPDIR": work / "tmp",
    }
    for place in caches.values():
        place.mkdir(exist_ok=True)
    fixed = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "PYTHONUNBUFFERED"), "1")
    fixed |= {"TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.pathsep.join(filter(None, path))}
    fixed |= {name: str(place) for name, place in caches.items()}
    return {**os.environ, **fixed, **({"CUDA_VISIBLE_DEVICES": ""} if tiny else {})}


def probe(environment: dict[str, str]) -> Machine:
    """Import what the parts import and say what is there. Raises MachineError with the reason in one line."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PROBE], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise MachineError(f"graphprune does not start with {sys.executable}: {last}; bring wheels") from error
    if "prune" not in found["passes"]:
        raise MachineError("graphprune's plug-ins are not found: its entry points were not written")
    return Machine(found["torch"], found["transformers"], found["card"], Path(found["site"]))


def runtime_environment(environment: dict[str, str], machine: Machine, work: Path, joined: Path) -> dict[str, str]:
    """The environment in which onnxruntime-gpu, where its wheel was joined, is found in place of onnxruntime.

    It looks for CUDA beside itself, where torch's packages are not, so the linker is told where they are.
    """
    wheel = next(iter(sorted(joined.glob(f"{RUNTIME}*.whl"))), None)
    if wheel is None or not fits(wheel):
        return environment
    site = unpack_wheels([wheel], work)
    packages = machine.site.parent
    libraries = sorted({path.parent for path in (packages / "nvidia").glob("**/lib/*.so*")})
    places = [*map(str, libraries), str(machine.site / "lib"), environment.get("LD_LIBRARY_PATH", "")]
    return {
        **environment,
        "PYTHONPATH": os.pathsep.join([str(site), environment["PYTHONPATH"]]),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, places)),
    }
